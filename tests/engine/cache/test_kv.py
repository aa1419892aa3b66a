"""The cache changes no number, keeps its promises at its edges, and is written in place."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import KVCache, make_cache
from elm_mlx.engine.plain import generate
from elm_mlx.engine.prefill import prefill
from elm_mlx.engine.sampling import Sampler, Sampling
from elm_mlx.errors import CacheFull

CLOSE = 2e-5


def relative(ours: mx.array, theirs: mx.array) -> float:
    """Largest difference as a share of the largest value."""
    return float(mx.abs(ours - theirs).max() / mx.abs(theirs).max())


def full_forward(lm: elm_mlx.LanguageModel, ids: list[int]) -> mx.array:
    """Logits (L, V) of all ids in one pass, without a cache or chunks."""
    return lm.model(mx.array([ids]))[0]


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_cached_steps_equal_one_full_forward(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    ids = checkpoints.prompt()
    cache = make_cache(lm.config.num_layers, len(ids))
    steps = [lm.model(mx.array([ids[i : i + chunk]]), cache) for i in range(0, len(ids), chunk)]
    assert relative(mx.concatenate(steps, axis=1)[0], full_forward(lm, ids)) <= CLOSE


@pytest.mark.parametrize("chunk", [1, 7, 71, 72, 512])
def test_prefill_gives_the_last_rows_logits_for_any_chunk(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    ids = checkpoints.prompt()
    heard: list[tuple[int, int]] = []
    cache = make_cache(lm.config.num_layers, len(ids))
    last = prefill(lm.model, mx.array([ids]), cache, Execution(chunk=chunk), progress=lambda *at: heard.append(at))
    assert relative(last[0], full_forward(lm, ids)[-1]) <= CLOSE
    assert cache[0].offset == len(ids)
    assert heard == [(min(done, 72), 72) for done in range(chunk, 72 + chunk, chunk)]


def test_output_fed_back_gives_the_same_log_probabilities(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(40)
    cache = make_cache(lm.config.num_layers, 80)
    logits = [prefill(lm.model, mx.array([ids]), cache, Execution(chunk=16))]
    drawn: list[int] = []
    for _ in range(24):
        drawn.append(int(mx.argmax(logits[-1]).item()))
        logits.append(lm.model(mx.array([[drawn[-1]]]), cache)[:, -1])
    ours = mx.concatenate(logits)
    theirs = full_forward(lm, ids + drawn)[len(ids) - 1 :]
    as_log_probabilities = [x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (ours, theirs)]
    assert relative(*as_log_probabilities) <= CLOSE


def test_a_batch_of_two_equals_each_row_alone(lm: elm_mlx.LanguageModel) -> None:
    rows = [checkpoints.prompt(33, seed) for seed in (1, 2)]
    cache = make_cache(lm.config.num_layers, 40)
    prefill(lm.model, mx.array(rows), cache, Execution(chunk=10))
    together = lm.model(mx.array([[5], [6]]), cache)[:, -1]
    for row, token, logits in zip(rows, (5, 6), together, strict=True):
        assert relative(logits, full_forward(lm, [*row, token])[-1]) <= 1e-4


def test_trimming_forgets_exactly_the_last_positions(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(30)
    cache = make_cache(lm.config.num_layers, 40)
    prefill(lm.model, mx.array([[*ids, 7, 8, 9]]), cache)
    assert [layer.trim(3) for layer in cache] == [3] * lm.config.num_layers
    after = lm.model(mx.array([[11]]), cache)[0, -1]
    assert relative(after, full_forward(lm, [*ids, 11])[-1]) <= CLOSE
    assert cache[0].trim(1000) == 31
    assert cache[0].trim(-5) == 0


def test_buffers_grow_with_what_they_hold_and_no_further(lm: elm_mlx.LanguageModel) -> None:
    """A large limit costs nothing until it is used, and growing changes no number."""
    ids = checkpoints.prompt(60)
    cache = make_cache(lm.config.num_layers, 50, reserve=8)
    steps = [lm.model(mx.array([ids[i : i + 5]]), cache) for i in range(0, 50, 5)]
    assert relative(mx.concatenate(steps, axis=1)[0], full_forward(lm, ids[:50])) <= CLOSE
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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_decoding_writes_in_place(openelm: object, temperature: float) -> None:
    """64 steps need no more memory than the cache itself: one copied at a step would show as another cache."""
    lm = elm_mlx.load(str(openelm))
    before = mx.get_active_memory()
    cache = make_cache(lm.config.num_layers, 60_000, reserve=60_000)
    steps = generate(lm.model, checkpoints.prompt(), cache, Sampler(Sampling(temperature), 0), max_tokens=72)
    for _ in range(8):
        next(steps)
    held = sum(buffer.nbytes for layer in cache for buffer in layer.arrays())
    mx.reset_peak_memory()
    for _ in steps:
        pass
    assert held > 20e6
    assert mx.get_peak_memory() - before < 1.01 * held + 1e6


def test_the_cache_ends_up_with_all_but_the_last_id_however_the_loop_ends(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(20)
    for taken in (1, 5, 16):  # closed early, twice, and run out
        cache = make_cache(lm.config.num_layers, 36)
        steps = generate(lm.model, ids, cache, Sampler(Sampling()), max_tokens=16)
        drawn = [next(steps) for _ in range(taken)]
        steps.close()
        assert {layer.offset for layer in cache} == {len(ids) + taken - 1}
        follow = lm.model(mx.array([[drawn[-1]]]), cache)[0, -1]
        assert relative(follow, full_forward(lm, ids + drawn)[-1]) <= CLOSE


def test_no_step_runs_past_the_end(lm: elm_mlx.LanguageModel) -> None:
    """A cache with room for the prompt and all but the last id suffices."""
    cache = make_cache(lm.config.num_layers, 20 + 8 - 1)
    assert len(list(generate(lm.model, checkpoints.prompt(20), cache, Sampler(Sampling()), max_tokens=8))) == 8


def test_interleaved_requests_do_not_disturb_each_other(lm: elm_mlx.LanguageModel) -> None:
    options = {"max_tokens": 12, "temperature": 1.0}
    prompts = {3: checkpoints.prompt(20), 4: checkpoints.prompt(31)}
    alone = {seed: [p.token for p in lm.stream(ids, seed=seed, **options)] for seed, ids in prompts.items()}
    stream = mx.default_stream(mx.default_device())
    running = {seed: lm.stream(ids, seed=seed, **options) for seed, ids in prompts.items()}
    mixed: dict[int, list[int]] = {seed: [] for seed in prompts}
    for _ in range(12):
        for seed, pieces in running.items():
            mixed[seed] += [piece.token for piece in [next(pieces, None)] if piece]
    assert mixed == alone
    assert mx.default_stream(mx.default_device()) == stream


def test_float_results_do_not_depend_on_what_the_cache_held_before(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(20)
    cache = make_cache(lm.config.num_layers, 60)
    prefill(lm.model, mx.array([checkpoints.prompt(50, seed=9)]), cache)
    for layer in cache:
        layer.trim(50)
    again = prefill(lm.model, mx.array([ids]), cache)
    fresh = prefill(lm.model, mx.array([ids]), make_cache(lm.config.num_layers, 60))
    assert np.array_equal(np.array(again), np.array(fresh))
