"""A lookup proposes what followed the same ids before, in a time that does not grow with the text."""

from __future__ import annotations

import random

import pytest

from elm_mlx.engine import lookup
from elm_mlx.engine.lookup import LENGTHS, Lookup


def read_in(ids: list[int]) -> Lookup:
    found = Lookup()
    assert found.read(ids)
    return found


def scanned(ids: list[int], most: int) -> list[int]:
    """What a search backwards through all ids finds."""
    for length in LENGTHS:
        if len(ids) > length:
            for start in range(len(ids) - length - 1, -1, -1):
                if ids[start : start + length] == ids[-length:]:
                    followed = ids[start + length :]
                    return [followed[step % len(followed)] for step in range(most)]
    return []


def test_it_proposes_what_a_search_through_all_ids_finds() -> None:
    rng = random.Random(0)
    for _ in range(60):
        ids = rng.choices(range(rng.choice([2, 4, 20])), k=rng.randint(0, 60))
        found = Lookup()
        for end in range(len(ids) + 1):
            found.read(ids[:end])
            assert found.propose(4) == scanned(ids[:end], 4)


def test_ids_that_are_read_together_are_found_like_those_that_come_one_by_one() -> None:
    ids = [*range(10), 5, 6, 7]
    one_by_one = Lookup()
    for end in range(1, len(ids) + 1):
        one_by_one.read(ids[:end])
    assert one_by_one.propose(3) == read_in(ids).propose(3) == [8, 9, 5]


def test_the_longest_run_decides_and_the_newest_of_equal_ones() -> None:
    assert read_in([1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3]).propose(1) == [9]
    assert read_in([2, 3, 9, 2, 3, 8, 2, 3]).propose(1) == [8]


def test_nothing_is_proposed_for_what_is_new() -> None:
    for ids in ([], [1], [1, 2], list(range(50))):
        assert read_in(ids).propose(4) == []


def test_a_text_that_repeats_itself_is_taken_to_go_on() -> None:
    assert read_in([1, 2, 3] * 3).propose(6) == [1, 2, 3, 1, 2, 3]
    assert read_in([5] * 4).propose(6) == [5] * 6


def test_a_long_text_takes_bounded_memory_and_its_end_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MOST", 100)
    ids = list(range(1000))
    found = read_in(ids)
    for step in range(1000, 1500):
        ids.append(step)
        found.read(ids)
    assert all(len(places) == 100 for places in found.places.values())
    ids += [1450, 1451]
    found.read(ids)
    assert found.propose(2) == [1452, 1453]


def test_what_is_found_in_a_very_long_text_does_not_depend_on_how_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MOST", 20)
    rng = random.Random(0)
    for _ in range(200):
        ids = rng.choices(range(4), k=rng.randint(20, 90))
        one, cut = Lookup(), rng.randint(0, len(ids))
        one.read(ids[:cut])
        for end in range(cut, len(ids) + 1):
            one.read(ids[:end])
        assert one.propose(3) == read_in(ids).propose(3)
