"""The cache changes no number and keeps its promises at its edges."""

from __future__ import annotations

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.full_pass import CLOSE, full_pass, relative

import elm_mlx
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import KVCache, cache_bytes, make_cache
from elm_mlx.engine.prefill import prefill
from elm_mlx.errors import CacheFull

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


@each_family
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_cached_steps_equal_one_full_pass(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    ids = checkpoints.prompt()
    cache = make_cache(lm.config.num_layers, len(ids))
    steps = [lm.model(mx.array([ids[i : i + chunk]]), cache) for i in range(0, len(ids), chunk)]
    assert relative(mx.concatenate(steps, axis=1)[0], full_pass(lm, ids)) <= CLOSE


@each_family
def test_output_fed_back_gives_the_same_log_probabilities(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(40)
    cache = make_cache(lm.config.num_layers, 80)
    logits = [prefill(lm.model, mx.array([ids]), cache, Execution(chunk=16))]
    drawn: list[int] = []
    for _ in range(24):
        drawn.append(int(mx.argmax(logits[-1]).item()))
        logits.append(lm.model(mx.array([[drawn[-1]]]), cache)[:, -1])
    ours = mx.concatenate(logits)
    theirs = full_pass(lm, ids + drawn)[len(ids) - 1 :]
    as_log_probabilities = [x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (ours, theirs)]
    assert relative(*as_log_probabilities) <= CLOSE


@each_family
def test_trimming_forgets_exactly_the_last_positions(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(30)
    cache = make_cache(lm.config.num_layers, 40)
    prefill(lm.model, mx.array([[*ids, 7, 8, 9]]), cache)
    assert [layer.trim(3) for layer in cache] == [3] * lm.config.num_layers
    after = lm.model(mx.array([[11]]), cache)[0, -1]
    assert relative(after, full_pass(lm, [*ids, 11])[-1]) <= CLOSE
    assert cache[0].trim(1000) == 31
    assert cache[0].trim(-5) == 0


@each_family
def test_buffers_grow_with_what_they_hold_and_no_further(lm: elm_mlx.LanguageModel) -> None:
    """A large limit costs nothing until it is used, and growing changes no number."""
    ids = checkpoints.prompt(60)
    cache = make_cache(lm.config.num_layers, 50, reserve=8)
    steps = [lm.model(mx.array([ids[i : i + 5]]), cache) for i in range(0, 50, 5)]
    assert relative(mx.concatenate(steps, axis=1)[0], full_pass(lm, ids[:50])) <= CLOSE
    assert cache[0].keys is not None
    assert cache[0].keys.shape[2] == 50
    lengths = []
    growing = KVCache(1000, reserve=8)
    for _ in range(70):
        growing.append(mx.ones((1, 2, 1, 8)), mx.ones((1, 2, 1, 8)))
        lengths.append(growing.keys.shape[2] if growing.keys is not None else 0)
    assert sorted(set(lengths)) == [8, 16, 32, 64, 128]  # few copies, each twice as far apart
    small = make_cache(lm.config.num_layers, 10**9)
    lm.model(mx.array([ids]), small)
    assert small[0].keys is not None
    assert small[0].keys.shape[2] == 256


def test_a_full_cache_says_so_and_stays_as_it_was() -> None:
    cache = KVCache(4)
    block = mx.ones((1, 2, 3, 8))
    cache.append(block, block)
    with pytest.raises(CacheFull, match="holds 3 of 4 positions; 3 more"):
        cache.append(block, block)
    assert cache.offset == 3


def test_the_first_write_decides_the_buffers_type() -> None:
    cache = KVCache(40, reserve=2)
    cache.append(mx.ones((1, 2, 2, 8), mx.float16), mx.ones((1, 2, 2, 8), mx.float16))
    keys, _ = cache.append(mx.ones((1, 2, 2, 8)), mx.ones((1, 2, 2, 8)))
    assert keys.dtype == mx.float16


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_the_cache_holds_the_type_it_is_given(dtype: mx.Dtype) -> None:
    cache = KVCache(4)
    keys, values = cache.append(mx.ones((2, 3, 1, 8), dtype), mx.ones((2, 3, 1, 8), dtype))
    assert (keys.dtype, values.dtype, keys.shape) == (dtype, dtype, (2, 3, 1, 8))


def rooms(grow_by: int, lengths: list[int], reserve: int = 4) -> list[int]:
    """The room of a cache's buffers after each write of so many positions."""
    cache, found = KVCache(1000, reserve, grow_by), []
    for L in lengths:
        keys, _ = cache.append(mx.ones((1, 1, L, 2)), mx.ones((1, 1, L, 2)))
        assert bool((keys == 1).all())
        found.append(cache.arrays()[0].shape[2])
    return found


def test_where_it_is_asked_for_buffers_grow_by_steps() -> None:
    assert rooms(8, [1] * 30) == [4] * 4 + [12] * 8 + [20] * 8 + [28] * 8 + [36] * 2
    assert rooms(8, [3, 30, 1, 1]) == [4, 36, 36, 36]  # several steps at once where a write needs them
    assert rooms(8, [7]) == [8]  # one more, so that a buffer is its own
    assert rooms(400, [3, 2, 400, 400]) == [4, 404, 804, 1000]  # never beyond the capacity


@each_family
def test_a_fork_goes_its_own_way(lm: elm_mlx.LanguageModel) -> None:
    """What is written to either of the two changes nothing in the other."""
    ids = checkpoints.prompt(30)
    cache = make_cache(lm.config.num_layers, 40)
    prefill(lm.model, mx.array([ids]), cache)
    forks = [layer.fork(20, 25, reserve=21) for layer in cache]
    mx.eval([layer.arrays() for layer in forks])
    assert {(fork.offset, fork.capacity, fork.arrays()[0].shape[2]) for fork in forks} == {(20, 25, 21)}
    after_fork = lm.model(mx.array([[9, 8]]), forks)[0, -1]
    after_all = lm.model(mx.array([[11]]), cache)[0, -1]
    assert relative(after_fork, full_pass(lm, [*ids[:20], 9, 8])[-1]) <= CLOSE
    assert relative(after_all, full_pass(lm, [*ids, 11])[-1]) <= CLOSE


def test_a_fork_holds_no_more_than_there_is() -> None:
    assert KVCache(9).fork(5, 9).offset == 0
    assert not KVCache(9).fork(5, 9).arrays()
    cache = KVCache(9)
    cache.append(mx.ones((1, 1, 3, 2)), mx.ones((1, 1, 3, 2)))
    assert (cache.fork(5, 9).offset, cache.fork(2).capacity) == (3, 2)
    assert cache.fork(3, 3).arrays()[0].shape[2] == 4  # one more, so that a buffer is its own
    with pytest.raises(CacheFull, match="3 positions are to be copied into a cache of 2"):
        cache.fork(5, 2)


@pytest.mark.parametrize("n, capacity", [(10, 10), (10, 50), (30_000, 30_000)])
def test_an_evaluated_fork_leaves_writes_in_place(n: int, capacity: int) -> None:
    """A row that goes on after it was copied needs no third buffer, and its copy keeps none of its memory."""
    cache, block = KVCache(30_010, reserve=30_010), mx.ones((1, 4, 5, 8))
    cache.append(mx.ones((1, 4, 30_000, 8)), mx.ones((1, 4, 30_000, 8)))
    fork = cache.fork(n, capacity)
    mx.eval(cache.arrays(), fork.arrays())
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(2):
        cache.append(block, block)
        mx.eval(cache.arrays())
    assert mx.get_peak_memory() - before <= 0.01 * cache.nbytes
    del cache
    mx.synchronize()
    assert mx.get_active_memory() <= before - 7e6


def test_the_first_write_keeps_nothing_of_what_it_was_cut_from() -> None:
    """Keys and values are parts of a product with all heads; a cache of just their length holds them alone."""
    product = mx.ones((1, 4, 5_000, 8))
    before = mx.get_active_memory()
    cache = KVCache(5_000)
    cache.append(product[:, :1], product[:, 1:2])
    mx.eval(cache.arrays())
    del product
    mx.synchronize()
    assert mx.get_active_memory() - before <= 1.01 * cache.nbytes


def test_a_resized_cache_copies_nothing_until_a_write_needs_room() -> None:
    cache, block = KVCache(4, reserve=4), mx.ones((1, 2, 3, 8))
    cache.append(block, block)
    mx.eval(cache.arrays())
    held = cache.arrays()
    cache.resize(50, reserve=20)
    assert all(one is other for one, other in zip(held, cache.arrays(), strict=True))
    cache.append(block[:, :, :1], block[:, :, :1])
    assert cache.arrays()[0].shape[2] == 4
    keys, _ = cache.append(block, block)
    assert (cache.arrays()[0].shape[2], cache.offset, keys.shape[2]) == (20, 7, 7)
    assert bool((keys == 1).all())
    with pytest.raises(CacheFull, match="holds 7 positions, more than the 6"):
        cache.resize(6)
    assert cache.capacity == 50


def test_its_bytes_are_those_of_the_buffers() -> None:
    cache = make_cache(2, 100, reserve=10)
    assert cache_bytes(cache) == 0
    for layer in cache:
        layer.append(mx.ones((1, 2, 3, 8), mx.float16), mx.ones((1, 2, 3, 8), mx.float16))
    assert cache_bytes(cache) == 2 * cache[0].nbytes == 2 * (2 * 2 * 10 * 8 * 2)
