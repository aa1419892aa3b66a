"""The decoding loop: as many ids as asked for, a cache that holds them however it ends, and no copy of it a step."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.full_pass import CLOSE, full_pass, relative

import elm_mlx
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.plain import generate
from elm_mlx.engine.sampling import Sampler, Sampling
from elm_mlx.errors import CacheFull

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


def greedy(lm: elm_mlx.LanguageModel, ids: list[int], count: int, **options: object) -> list[int]:
    cache = make_cache(lm.config.num_layers, len(ids) + count)
    return list(generate(lm.model, ids, cache, Sampler(Sampling()), max_tokens=count, **options))  # type: ignore[arg-type]


@each_family
def test_each_id_is_the_likeliest_after_all_before_it(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(20)
    drawn = greedy(lm, ids, 24)
    assert len(drawn) == 24
    assert mx.argmax(full_pass(lm, ids + drawn)[len(ids) - 1 : -1], axis=-1).tolist() == drawn


@each_family
def test_the_first_stop_id_is_the_last_id(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(20)
    free = greedy(lm, ids, 16)
    stop = free[5]
    assert greedy(lm, ids, 16, stop_ids={stop}) == free[: free.index(stop) + 1]


@each_family
def test_the_cache_ends_up_with_all_but_the_last_id_however_the_loop_ends(lm: elm_mlx.LanguageModel) -> None:
    ids = checkpoints.prompt(20)
    for taken in (1, 5, 16):  # closed early, twice, and run out
        cache = make_cache(lm.config.num_layers, 36)
        steps = generate(lm.model, ids, cache, Sampler(Sampling()), max_tokens=16)
        drawn = [next(steps) for _ in range(taken)]
        steps.close()
        assert {layer.offset for layer in cache} == {len(ids) + taken - 1}
        follow = lm.model(mx.array([[drawn[-1]]]), cache)[0, -1]
        assert relative(follow, full_pass(lm, ids + drawn)[-1]) <= CLOSE


@each_family
def test_no_step_runs_past_the_end(lm: elm_mlx.LanguageModel) -> None:
    """A cache with room for the prompt and all but the last id suffices, and one with less does not."""
    ids = checkpoints.prompt(20)
    cache = make_cache(lm.config.num_layers, 20 + 8 - 1)
    assert len(list(generate(lm.model, ids, cache, Sampler(Sampling()), max_tokens=8))) == 8
    short = make_cache(lm.config.num_layers, 20 + 8 - 2)
    with pytest.raises(CacheFull):
        list(generate(lm.model, ids, short, Sampler(Sampling()), max_tokens=8))


@each_family
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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_decoding_writes_in_place(openelm: Path, temperature: float) -> None:
    """64 steps need no more memory than the cache itself: one copied at a step would show as another cache."""
    lm = elm_mlx.load(openelm)
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
