"""The cache changes no number and keeps its promises at its edges."""

from __future__ import annotations

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.full_pass import CLOSE, full_pass, relative

import elm_mlx
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import KVCache, make_cache
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
