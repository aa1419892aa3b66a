"""All caches of a process stay within one number of bytes, and what is only kept gives way to requests."""

from __future__ import annotations

import math
import random

import pytest

from elm_mlx.engine.budget import Budget
from elm_mlx.errors import NotEnoughMemory


class Kept:
    """A store of (when it was used, bytes), which tells a journal of what it drops."""

    def __init__(self, budget: Budget, held: list[tuple[float, int]], journal: list[float] | None = None) -> None:
        self.held, self.journal = sorted(held), [] if journal is None else journal
        budget.register(self)

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, nbytes in self.held)

    @property
    def oldest(self) -> float:
        return self.held[0][0] if self.held else math.inf

    def drop_oldest(self) -> int:
        used, nbytes = self.held.pop(0)
        self.journal.append(used)
        return nbytes


def test_requests_get_what_there_is_and_no_more() -> None:
    budget = Budget(100)
    assert budget.has_room(60)
    budget.reserve(60)
    assert not budget.has_room(41)
    assert not budget.has_room(41)
    assert budget.has_room(40)
    assert budget.has_room(40)
    budget.reserve(40)
    assert (budget.available, budget.reserved) == (0, 100)
    budget.release(60)
    assert (budget.available, budget.reserved) == (60, 40)


def test_more_than_was_reserved_is_not_given_back() -> None:
    budget = Budget(100)
    budget.reserve(10)
    with pytest.raises(ValueError, match="11 bytes are to be released, and 10"):
        budget.release(11)


def test_stores_give_way_and_the_least_recently_used_goes_first_wherever_it_lies() -> None:
    budget, journal = Budget(100), []
    one = Kept(budget, [(1, 20), (4, 20)], journal)
    other = Kept(budget, [(2, 20), (3, 20)], journal)
    assert (budget.available, budget.stored) == (100, 80)
    assert budget.has_room(70)
    budget.reserve(70)
    assert journal == [1, 2, 3]
    assert (one.nbytes, other.nbytes) == (20, 0)


def test_nothing_gives_way_where_that_would_not_be_enough() -> None:
    budget = Budget(100, kept=60)
    budget.reserve(50)
    kept = Kept(budget, [(1, 20), (2, 20)])
    assert not budget.has_room(51)
    assert not budget.make_place(51)  # more than requests leave
    budget.release(50)
    assert not budget.make_place(61)  # more than stores may ever hold
    assert kept.nbytes == 40
    assert budget.has_room(100)
    budget.reserve(100)
    assert kept.nbytes == 0


def test_what_is_kept_has_its_share_alone() -> None:
    budget, journal = Budget(100, kept=50), []
    stores = Kept(budget, [(1, 20)], journal), Kept(budget, [(2, 20)], journal)
    assert budget.make_place(10)
    assert not journal
    assert budget.make_place(30)
    assert journal == [1]
    assert [store.nbytes for store in stores] == [0, 20]
    assert Budget(100).kept == 25


def test_a_store_that_was_dropped_takes_no_room() -> None:
    budget = Budget(100)
    kept = Kept(budget, [(1, 90)])
    assert budget.stored == 90
    del kept
    assert budget.stored == 0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_the_limit_holds(seed: int) -> None:
    chance, budget, running = random.Random(seed), Budget(1000, kept=600), []
    stores = [Kept(budget, []) for _ in range(3)]
    for now in range(300):
        nbytes = chance.randrange(1, 400)
        if chance.random() < 0.4 and budget.has_room(nbytes):
            budget.reserve(nbytes)
            running.append(nbytes)
        elif running and chance.random() < 0.5:
            budget.release(running.pop(chance.randrange(len(running))))
        elif budget.make_place(nbytes):
            chance.choice(stores).held.append((now, nbytes))
        assert budget.reserved == sum(running)
        assert budget.stored <= 600
        assert budget.reserved + budget.stored <= 1000


def test_what_can_never_have_room_is_refused() -> None:
    budget = Budget(100)
    budget.reserve(100)
    budget.refuse_impossible(100)  # it has to wait, no more
    with pytest.raises(NotEnoughMemory, match="for 11 tokens, and caches have 100 bytes here, enough for 10 tokens"):
        budget.refuse_impossible(110, positions=11)
