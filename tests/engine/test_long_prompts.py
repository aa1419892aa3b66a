"""A long prompt is read in rounds whose memory does not grow with its depth, gives what any other cut gives, and can be
watched and stopped after each round."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.engines import check_answers, make_engine
from helpers.full_pass import CLOSE, full_pass, relative
from hypothesis import given
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.config import config_from_dict
from elm_mlx.device import choose_execution
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import KVCache, cache_bytes, make_cache
from elm_mlx.engine.prefill import LEAST_AT_DEPTH, Reading, all_logits, cut, prefill, rounds
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import CANCELLED

on_cpu = pytest.mark.skipif("config.getoption('--device') == 'gpu'", reason="policy of the CPU backend")
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)


def streams(count: int) -> tuple[mx.Device, ...]:
    """So many places to compute, all of them MLX's own stream: what is cut does not ask which they are."""
    return (mx.default_device(),) * (count if count > 1 else 0)


@given(
    length=st.integers(1, 3000),
    held=st.integers(0, 200_000),
    chunk=st.integers(LEAST_AT_DEPTH, 600),
    area=st.integers(1, 4_000_000),
    count=st.integers(1, 4),
)
def test_rounds_cover_a_prompt_once_and_stay_within_the_area(
    length: int, held: int, chunk: int, area: int, count: int
) -> None:
    execution = Execution(chunk=chunk, least_chunk=LEAST_AT_DEPTH, chunk_area=area, streams=streams(count))
    found = rounds(length, execution, held)
    parts = [which for _, which in chain.from_iterable(found)]
    assert (parts[0].start, parts[-1].stop) == (0, length)
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert all(LEAST_AT_DEPTH <= part.stop - part.start <= chunk for part in parts[:-1])
    for one in found:
        ids, end = one[-1][1].stop - one[0][1].start, one[-1][1].stop
        assert len(one) <= count
        assert ids * (held + end) <= area or ids <= LEAST_AT_DEPTH


@given(length=st.integers(1, 5000), held=st.integers(0, 200_000), chunk=st.integers(64, 600))
def test_without_an_area_depth_changes_nothing(length: int, held: int, chunk: int) -> None:
    """A GPU's attention keeps no scores, so its chunks are equal at any depth."""
    sizes = [one[0][1].stop - one[0][1].start for one in rounds(length, Execution(chunk=chunk), held)]
    assert sizes == [chunk] * (length // chunk) + [length % chunk] * bool(length % chunk)


def test_no_gpu_has_an_area() -> None:
    assert Execution().chunk_area == 0


@on_cpu
@pytest.mark.parametrize("policy", ["auto", "plain", "compiled"])
def test_a_round_of_the_cpu_shrinks_to_76_ids_at_8k_and_19_at_32k(policy: str) -> None:
    config = config_from_dict(checkpoints.PUBLISHED["openelm"]["270m"]["config"])
    area = choose_execution(config, policy).chunk_area
    assert (area // 8192, area // 32768) == (76, 19)


@each_family
@pytest.mark.parametrize(("area", "count"), [(1, 1), (64 * 300, 2), (128 * 400, 3)])
def test_any_area_gives_the_logits_of_one_pass(lm: elm_mlx.LanguageModel, area: int, count: int) -> None:
    ids = checkpoints.prompt(300)
    execution = replace(lm.execution, chunk=128, chunk_area=area, streams=streams(count))
    expected = full_pass(lm, ids)
    cache = make_cache(lm.config.num_layers, len(ids))
    assert relative(prefill(lm.model, mx.array([ids]), cache, execution)[0], expected[-1]) <= CLOSE
    cache = make_cache(lm.config.num_layers, len(ids))
    assert relative(all_logits(lm.model, mx.array([ids]), cache, execution)[0], expected) <= CLOSE


@one_family
def test_what_a_cache_holds_already_counts_as_depth(lm: elm_mlx.LanguageModel) -> None:
    """The rest of a prompt whose beginning was kept is read in the small chunks of its depth."""
    ids = checkpoints.prompt(400)
    engine = make_engine(lm, chunk=64, chunk_area=64 * 256, streams=())
    first = engine.submit(Request(tuple(ids[:300]), 2))
    while engine.has_work:
        engine.step()
    again = engine.submit(Request(tuple(ids), 2))
    engine.step()
    assert again.reused == 300
    assert again.read - again.reused == 64 * 256 // 364
    while engine.has_work:
        engine.step()
    assert len(first.ids) == len(again.ids) == 2


def synthetic(lm: elm_mlx.LanguageModel, positions: int) -> list[KVCache]:
    """A cache that holds random keys and values, with room for 512 positions more."""
    cache = make_cache(lm.config.num_layers, positions + 512, positions + 512)
    for layer, heads in zip(cache, lm.config.num_kv_heads, strict=True):
        keys = mx.random.normal((1, heads, positions, lm.config.head_dim))
        layer.append(keys, keys)
    mx.eval([layer.arrays() for layer in cache])
    return cache


@on_cpu
@one_family
def test_the_memory_of_a_round_does_not_grow_with_depth(lm: elm_mlx.LanguageModel) -> None:
    heads, area, peaks = max(lm.config.num_heads), 128 * 4096, []
    execution = replace(lm.execution, chunk=256, chunk_area=area, streams=())
    for depth in (4096, 16_000):
        cache = synthetic(lm, depth)
        mx.clear_cache()
        reading = Reading(lm.model, mx.array([[5] * 512]), cache, execution)
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        reading.advance()
        mx.eval(reading.arrays())
        peaks.append(mx.get_peak_memory() - held)
    assert max(peaks) <= 2 * 4 * heads * area  # 4 bytes a score; what else a layer takes is little
    assert peaks[1] <= 1.2 * peaks[0]


@on_cpu
@pytest.mark.slow
@pytest.mark.parametrize("depth", [8192, 32_768])
def test_a_round_of_openelm_270m_takes_less_than_250_mb_at_32k(depth: int) -> None:
    """Its widest layer: 20 query heads of 64 over 5 key/value heads, in float32. benchmarks/long_context.py measures
    the whole model."""
    config = config_from_dict(checkpoints.PUBLISHED["openelm"]["270m"]["config"])
    H, K, D = max(config.num_heads), max(config.num_kv_heads), config.head_dim
    execution = choose_execution(config, "compiled")
    ids, chunks = cut(512, depth, execution)
    layer = KVCache(depth + 512, depth + 512)
    layer.append(mx.random.normal((1, K, depth, D)), mx.random.normal((1, K, depth, D)))
    q, k, v = (mx.random.normal((1, heads, ids * chunks, D)) for heads in (H, K, K))
    mx.eval(layer.arrays(), q, k, v)
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(layer.attend(q, k, v))
    assert 4 * H * ids * chunks * depth <= mx.get_peak_memory() - held <= 250e6


@on_cpu
@one_family
@pytest.mark.parametrize("grow_by", [0, 256])
def test_buffers_that_grow_at_depth_are_in_memory_twice_a_layer_at_a_time(
    lm: elm_mlx.LanguageModel, grow_by: int
) -> None:
    positions = 16_384
    cache = make_cache(lm.config.num_layers, 2 * positions, positions, grow_by)
    for layer, heads in zip(cache, lm.config.num_kv_heads, strict=True):
        keys = mx.zeros((1, heads, positions, lm.config.head_dim))
        layer.append(keys, keys)
        mx.eval(layer.arrays())
    del keys
    mx.clear_cache()
    before, held = mx.get_active_memory(), cache_bytes(cache)
    mx.reset_peak_memory()
    for token in range(2):  # the buffers have a column to spare, so that the second one needs room
        mx.eval(lm.model.last_hidden(mx.array([[5 + token]]), cache))
    grown = cache_bytes(cache) - held
    assert grown > 0
    largest = max(layer.nbytes for layer in cache)
    assert mx.get_peak_memory() - before - grown <= 1.2 * largest


@one_family
def test_what_was_read_of_a_cancelled_prompt_is_not_read_again(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, chunk=32, streams=())
    prompt = tuple(checkpoints.prompt(200))
    for read in (64, 128):  # the second one begins with what the first has read
        one = engine.submit(Request(prompt, 2, owner=1))
        while one.read < read:
            engine.step()
        engine.cancel(one)
        engine.step()
        assert [(len(kept.ids), kept.owner) for kept in engine.prefixes.entries] == [(read, 1)]
        assert engine.limits.budget.reserved == 0
    last = engine.submit(Request(prompt, 5, owner=1))
    while engine.has_work:
        engine.step()
    assert last.reused == 128
    check_answers(lm, [last])


@one_family
def test_a_long_prompt_tells_how_far_it_is_and_stops_within_a_round(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, chunk=64, chunk_area=64 * 64, streams=())
    one = engine.submit(Request(tuple(checkpoints.prompt(500)), 2))
    told = []
    while one.read < 480:
        assert engine.step() == [one]
        told.append(one.read)
    steps = [b - a for a, b in pairwise([0, *told])]
    assert steps[0] == 64
    assert steps[-1] == LEAST_AT_DEPTH
    assert steps == sorted(steps, reverse=True)
    engine.cancel(one)
    assert engine.step() == [one]
    assert (one.finish, one.read) == (CANCELLED, told[-1])
    assert engine.limits.budget.reserved == 0
    assert not engine.has_work
