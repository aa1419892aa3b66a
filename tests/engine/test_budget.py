"""All caches of a process stay within one number of bytes, and what is only kept gives way to requests."""

from __future__ import annotations

import math
import random

import pytest

from elm_mlx.engine.budget import Budget


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
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert budget.reserve(40)
    assert (budget.available, budget.free) == (0, 0)
    budget.release(60)
    assert (budget.available, budget.free, budget.reserved) == (60, 60, 40)


def test_more_than_was_reserved_is_not_given_back() -> None:
    budget = Budget(100)
    budget.reserve(10)
    with pytest.raises(ValueError, match="11 bytes are to be released, and 10"):
        budget.release(11)


def test_stores_give_way_and_the_least_recently_used_goes_first_wherever_it_lies() -> None:
    budget, journal = Budget(100), []
    one = Kept(budget, [(1, 20), (4, 20)], journal)
    other = Kept(budget, [(2, 20), (3, 20)], journal)
    assert (budget.available, budget.free) == (100, 20)
    assert budget.reserve(70)
    assert journal == [1, 2, 3]
    assert (one.nbytes, other.nbytes, budget.free) == (20, 0, 10)


def test_nothing_gives_way_where_that_would_not_be_enough() -> None:
    budget = Budget(100)
    budget.reserve(50)
    kept = Kept(budget, [(1, 20), (2, 20)])
    assert not budget.reserve(51)
    assert not budget.make_room(51)
    assert kept.nbytes == 40
    assert budget.make_room(50)
    assert (kept.nbytes, budget.reserved) == (0, 50)


def test_a_store_that_was_dropped_takes_no_room() -> None:
    budget = Budget(100)
    kept = Kept(budget, [(1, 90)])
    assert budget.free == 10
    del kept
    assert budget.free == 100


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes_the_limit_holds(seed: int) -> None:
    chance, budget, running = random.Random(seed), Budget(1000), []
    stores = [Kept(budget, []) for _ in range(3)]
    for now in range(300):
        nbytes = chance.randrange(1, 400)
        if chance.random() < 0.4 and budget.reserve(nbytes):
            running.append(nbytes)
        elif running and chance.random() < 0.5:
            budget.release(running.pop(chance.randrange(len(running))))
        elif budget.make_room(nbytes):
            chance.choice(stores).held.append((now, nbytes))
        assert budget.reserved == sum(running)
        assert 0 <= budget.free == 1000 - sum(running) - sum(store.nbytes for store in stores)
