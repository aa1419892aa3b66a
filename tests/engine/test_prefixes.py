"""Kept caches are found by their ids, handed over or copied, and give way to requests."""

from __future__ import annotations

import random
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.full_pass import CLOSE, full_pass, relative

import elm_mlx
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kind import PLAIN
from elm_mlx.engine.cache.kv import KVCache, cache_bytes, make_cache
from elm_mlx.engine.prefill import prefill
from elm_mlx.engine.prefixes import Entry, Prefixes, shared_length
from elm_mlx.errors import NotEnoughMemory

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
POSITION = 2 * 4  # bytes: one key and one value in float32, in one layer
PLENTY = 10**9


def held(ids: Sequence[int], room: int = 0) -> list[KVCache]:
    """A cache of one layer in whose buffers each id stands at its position, with room for at least so many."""
    cache = KVCache(10**6, reserve=max(room, len(ids) + 1))
    block = mx.array(list(ids), mx.float32).reshape(1, 1, -1, 1)
    cache.append(block, block)
    mx.eval(cache.arrays())
    return [cache]


def content(cache: list[KVCache]) -> list[int]:
    """The ids in a cache that `held` made."""
    keys = cache[0].arrays()[0][0, 0, : cache[0].offset, 0]
    return [int(x) for x in keys.tolist()]  # type: ignore[union-attr, arg-type]


def kept(*all_ids: Sequence[int], limit: int = PLENTY, share: int | None = PLENTY) -> Prefixes:
    """A store that keeps caches with these ids, the last the most recently used."""
    prefixes = Prefixes(Budget(limit, share))
    for now, ids in enumerate(all_ids):
        assert prefixes.put(ids, held(ids))
        prefixes.entries[-1].used = now
    return prefixes


def lengths(prefixes: Prefixes) -> list[int]:
    """How many ids each kept cache has."""
    return [len(entry.ids) for entry in prefixes.entries]


@pytest.mark.parametrize(
    "one, other, shared",
    [
        ([], [], 0),
        ([1], [], 0),
        ([1, 2], [1, 2], 2),
        ([1, 2], [1, 2, 3], 2),
        ([5, 2], [1, 2], 0),
        ([1, 2, 4], (1, 2, 3), 2),
    ],
)
def test_what_two_share_is_their_common_beginning(one: list[int], other: list[int], shared: int) -> None:
    assert shared_length(one, other) == shared_length(other, one) == shared
    assert shared_length(np.array(one, np.int32), other) == shared


def test_the_longest_common_beginning_is_found() -> None:
    prompt = list(range(100))
    prefixes = kept([*prompt[:30], *range(500, 600)], [*prompt[:50], 7, 7], list(range(900, 1000)))
    found = prefixes.find([*prompt, 5])
    assert found
    assert (found.shared, len(found.entry.ids)) == (50, 52)
    assert prefixes.find(range(300, 400)) is None


def test_the_last_id_of_a_prompt_is_always_read() -> None:
    prefixes = kept(range(100))
    for length, shared in ((100, 99), (60, 59), (101, 100), (17, 16)):
        found = prefixes.find(range(length))
        assert found
        assert found.shared == shared


def test_too_few_shared_ids_count_as_none() -> None:
    prefixes = kept(range(100))
    assert prefixes.find(range(Prefixes.LEAST)) is None
    assert prefixes.find([]) is None
    assert not prefixes.put(range(15), held(range(15)))


@pytest.mark.parametrize("seed", range(10))
def test_the_search_finds_what_comparing_id_by_id_finds(seed: int) -> None:
    chance, prefixes = random.Random(seed), kept()
    for _ in range(20):
        ids = [chance.choice((1, 1, 1, 2)) for _ in range(chance.randrange(16, 80))]
        prefixes.put(ids, held(ids))
    for _ in range(20):
        prompt = [chance.choice((1, 1, 1, 2)) for _ in range(chance.randrange(1, 90))]
        best = max(slowly_shared(prompt[:-1], entry) for entry in prefixes.entries)
        found = prefixes.find(prompt)
        assert (found.shared if found else 0) == (best if best >= 16 else 0)


def slowly_shared(prompt: list[int], entry: Entry) -> int:
    """How many ids the prompt and a kept cache have in common from their beginning."""
    pairs = enumerate(zip(prompt, entry.ids.tolist(), strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(prompt), len(entry.ids)))


def test_what_is_handed_over_holds_what_is_shared_and_is_kept_no_more() -> None:
    prefixes = kept(range(100))
    found = prefixes.find([*range(90), 7, 7])
    assert found
    buffers = found.entry.cache[0].arrays()
    cache = prefixes.take(found)
    assert content(cache) == list(range(90))
    assert all(one is other for one, other in zip(buffers, cache[0].arrays(), strict=True))  # nothing was copied
    assert not prefixes.entries
    with pytest.raises(ValueError):
        prefixes.take(found)


def test_a_copy_leaves_what_is_kept_as_it_is() -> None:
    prefixes = kept(range(100))
    found = prefixes.find(range(60))
    assert found
    cache = prefixes.copy(found, capacity=80, reserve=70)
    cache[0].append(mx.full((1, 1, 2, 1), 7.0), mx.full((1, 1, 2, 1), 7.0))
    assert content(cache) == [*range(59), 7, 7]
    assert (cache[0].capacity, cache[0].arrays()[0].shape[2]) == (80, 70)
    assert content(prefixes.entries[0].cache) == list(range(100))


@pytest.mark.parametrize(
    "prompt, stays",
    [
        ([*range(95), 7], False),  # a chat's next turn, which encodes the last few tokens anew
        ([*range(80), 7], False),  # 20 of 100 beyond 80 shared: a quarter
        ([*range(79), 7], True),
        ([*range(20), 7], True),  # another chat under one system prompt
    ],
)
def test_a_cache_is_handed_over_where_little_is_lost_and_copied_elsewhere(prompt: list[int], stays: bool) -> None:
    prefixes = kept(range(100))
    found = prefixes.find(prompt)
    assert found
    cache = prefixes.borrow(found, capacity=300, reserve=250)
    assert content(cache) == prompt[:-1]
    assert cache[0].capacity == 300
    assert bool(prefixes.entries) == stays
    cache[0].append(mx.ones((1, 1, 100, 1)), mx.ones((1, 1, 100, 1)))
    assert cache[0].arrays()[0].shape[2] == 250
    if stays:
        assert content(prefixes.entries[0].cache) == list(range(100))


@pytest.mark.parametrize("limit, stays", [(201 * POSITION, True), (200 * POSITION, False)])
def test_where_a_request_has_no_room_beside_what_is_kept_it_gets_that(limit: int, stays: bool) -> None:
    prefixes = kept(range(100), limit=limit)  # its buffers have room for 101
    found = prefixes.find([*range(20), 7])
    assert found
    assert content(prefixes.borrow(found, capacity=100)) == list(range(20))
    assert bool(prefixes.entries) == stays


def test_a_request_may_reserve_its_bytes_after_it_borrowed() -> None:
    """What was found is not what gives way, and bytes that were handed over count for the request alone."""
    for limit in (201, 200):
        prefixes = kept(range(900, 920), range(100), limit=limit * POSITION)
        found = prefixes.find([*range(20), 7])
        assert found
        prefixes.borrow(found, capacity=100)
        assert prefixes.budget.has_room(100 * POSITION)
        prefixes.budget.reserve(100 * POSITION)
        assert lengths(prefixes) == ([100] if limit == 201 else [20])


def test_one_that_begins_another_is_dropped_for_it() -> None:
    prefixes = kept(range(50), range(900, 950))
    assert prefixes.put(range(80), held(range(80)))
    assert lengths(prefixes) == [50, 80]
    assert prefixes.entries[0].ids[0] == 900


@pytest.mark.parametrize("length", [100, 60])
def test_what_is_held_already_is_not_kept_twice(length: int) -> None:
    prefixes = kept(range(100), range(900, 950))
    assert not prefixes.put(range(length), held(range(length)))
    assert lengths(prefixes) == [100, 50]
    prefixes.drop_oldest()
    assert lengths(prefixes) == [100]  # it counts as used


def test_what_is_not_used_goes_first() -> None:
    prefixes = kept(range(100), range(200, 300), range(400, 500), limit=PLENTY, share=400 * POSITION)
    found = prefixes.find([*range(20), 7])
    assert found
    prefixes.copy(found, 40)
    assert prefixes.put(range(600, 700), held(range(600, 700)))
    assert [int(entry.ids[0]) for entry in prefixes.entries] == [0, 400, 600]
    assert prefixes.nbytes <= 400 * POSITION


def test_what_is_too_large_drops_nothing() -> None:
    prefixes = kept(range(20), range(900, 950), share=100 * POSITION)
    assert not prefixes.put(range(200), held(range(200)))
    assert lengths(prefixes) == [20, 50]
    assert prefixes.wants(100 * POSITION)
    assert not prefixes.wants(101 * POSITION)
    prefixes.budget.reserve(PLENTY - 80 * POSITION)
    assert not prefixes.put(range(90), held(range(90)))  # requests have the room
    assert lengths(prefixes) == [20, 50]


def test_requests_get_the_bytes_of_what_is_kept() -> None:
    prefixes = kept(range(100), range(200, 300), limit=300 * POSITION)
    assert prefixes.budget.has_room(150 * POSITION)
    prefixes.budget.reserve(150 * POSITION)
    assert [int(entry.ids[0]) for entry in prefixes.entries] == [200]
    assert prefixes.budget.has_room(150 * POSITION)
    prefixes.budget.reserve(150 * POSITION)
    assert not prefixes.entries


def test_a_cache_that_does_not_match_its_ids_is_refused() -> None:
    with pytest.raises(ValueError, match="A cache of 30 positions is to be kept with 31 ids"):
        kept().put(range(31), held(range(30)))


def test_memory_comes_back_when_it_is_asked_for() -> None:
    ids = [range(start, start + 20) for start in (0, 100, 200)]
    prefixes = Prefixes(Budget(PLENTY, PLENTY))
    for one in ids:
        prefixes.put(one, held(one, room=250_000))
    each = 250_000 * POSITION
    mx.synchronize()
    before = mx.get_active_memory()
    assert prefixes.nbytes == 3 * each
    assert prefixes.shrink(2 * each) == each
    assert [int(entry.ids[0]) for entry in prefixes.entries] == [100, 200]
    assert prefixes.clear() == 2 * each
    assert prefixes.clear() == 0
    assert before - mx.get_active_memory() == 3 * each
    assert mx.get_cache_memory() == 0


@each_family
@pytest.mark.parametrize("capacity", [100, 500])
def test_a_prompt_goes_on_in_what_was_kept(lm: elm_mlx.LanguageModel, capacity: int) -> None:
    """Handed over or copied, in buffers that have room or must grow: the logits are those of the whole prompt."""
    ids, layers = checkpoints.prompt(60), lm.config.num_layers
    for shared in (55, 30):
        cache = make_cache(layers, 60, reserve=60)
        mx.eval(prefill(lm.model, mx.array([ids]), cache))
        prefixes = Prefixes(Budget(PLENTY))
        prefixes.put(ids, cache)
        prompt = [*ids[:shared], *checkpoints.prompt(40, 7)]
        found = prefixes.find(prompt)
        assert found
        borrowed = prefixes.borrow(found, capacity)
        mx.eval([layer.arrays() for layer in borrowed])
        logits = prefill(lm.model, mx.array([prompt[found.shared :]]), borrowed)
        assert relative(logits[0], full_pass(lm, prompt)[-1]) <= CLOSE


def loaded(prefixes: Prefixes, ids: Sequence[int]) -> None:
    """Gives a store a cache as it comes from a file."""
    prefixes.load(ids, held(ids), PLAIN)


def test_what_was_loaded_is_copied_and_gives_way_last() -> None:
    prefixes = kept(range(200, 260), range(300, 360))
    loaded(prefixes, range(100))
    prefixes.entries[-1].used = -1  # the one that was not used for the longest time
    found = prefixes.find(range(120))
    assert found
    copy = prefixes.borrow(found, 200)
    mx.eval(copy[0].arrays())
    copy[0].trim(50)
    assert content(found.entry.cache) == list(range(100))
    for _ in range(2):
        prefixes.drop_oldest()
    assert lengths(prefixes) == [100]
    prefixes.drop_oldest()  # where a request needs the bytes
    assert not prefixes.entries


def test_what_is_kept_by_chance_takes_no_place_of_what_was_loaded() -> None:
    prefixes = Prefixes(Budget(PLENTY, 150 * POSITION))
    loaded(prefixes, range(100))
    assert not prefixes.put(range(200, 260), held(range(200, 260)))
    assert prefixes.put(range(200, 240), held(range(200, 240)))
    assert lengths(prefixes) == [100, 40]
    with pytest.raises(NotEnoughMemory, match=r"take 480 bytes, and 392 bytes are left .* beside 1 that were loaded"):
        prefixes.make_place_to_load(range(60), PLAIN, 60 * POSITION)
    prefixes.make_place_to_load(range(100), PLAIN, 101 * POSITION)  # the same again takes the place of the first
    loaded(prefixes, range(100))
    assert sorted(lengths(prefixes)) == [40, 100]


def test_after_a_failure_what_was_loaded_is_there() -> None:
    prefixes = kept(range(200, 260))
    loaded(prefixes, range(100))
    prefixes.forget_used()
    assert lengths(prefixes) == [100]
    assert prefixes.clear() > 0
    assert not prefixes.entries


def owned(*all_ids: Sequence[int], owner: int = 1, share: int = PLENTY) -> Prefixes:
    """A store that keeps caches with these ids, for one owner after the other."""
    prefixes = Prefixes(Budget(PLENTY, share))
    for number, ids in enumerate(all_ids, owner):
        assert prefixes.put(ids, held(ids), owner=number)
    return prefixes


def test_a_cache_is_handed_over_to_its_owner_and_copied_for_all_others() -> None:
    for owner, stays in ((1, False), (2, True), (None, True)):
        prefixes = owned(range(100))
        found = prefixes.find([*range(95), 7])
        assert found
        assert content(prefixes.borrow(found, 120, owner=owner)) == list(range(95))
        assert bool(prefixes.entries) is stays


def test_an_owners_cache_is_handed_over_where_there_is_no_room_beside_it() -> None:
    prefixes = owned(range(100))
    found = prefixes.find(range(95))
    assert found
    prefixes.budget.limit = found.entry.nbytes + POSITION * 50
    prefixes.borrow(found, 95, owner=2)
    assert not prefixes.entries


def test_an_owner_has_one_cache_and_two_owners_may_have_equal_ones() -> None:
    prefixes = owned(range(50), range(50), range(40))
    assert [entry.owner for entry in prefixes.entries] == [1, 2, 3]
    assert prefixes.put(range(500, 560), held(range(500, 560)), owner=2)
    assert lengths(prefixes) == [50, 40, 60]
    assert not prefixes.put(range(40), held(range(40)))  # nobody's: the first one has all of it
    assert lengths(prefixes) == [50, 40, 60]


def test_an_owners_cache_gives_way_after_nobodys_and_before_it_refuses_an_owners() -> None:
    size = cache_bytes(held(range(30)))
    prefixes = owned(range(30), range(100, 130), share=3 * size)
    assert prefixes.put(range(200, 230), held(range(200, 230)))
    assert prefixes.put(range(300, 330), held(range(300, 330)))  # in the place of nobody's
    assert [int(entry.ids[0]) for entry in prefixes.entries] == [0, 100, 300]
    assert prefixes.put(range(400, 430), held(range(400, 430)), owner=3)
    assert prefixes.put(range(500, 530), held(range(500, 530)), owner=4)  # in the place of the oldest
    assert [int(entry.ids[0]) for entry in prefixes.entries] == [100, 400, 500]
    assert not prefixes.put(range(600, 630), held(range(600, 630)))


def test_what_an_owner_leaves_is_anybodys() -> None:
    prefixes = owned(range(50), range(100, 150))
    prefixes.disown(1)
    assert [entry.owner for entry in prefixes.entries] == [None, 2]
    prefixes.disown(7)
