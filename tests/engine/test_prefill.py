"""A prompt read in chunks gives what one pass gives: after its last id, and after every id."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.full_pass import CLOSE, full_pass, relative

import elm_mlx
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.prefill import all_logits, prefill

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
each_chunk = pytest.mark.parametrize("chunk", [1, 7, 71, 72, 512])


@each_family
@each_chunk
def test_prefill_gives_the_last_rows_logits_for_any_chunk(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    ids = checkpoints.prompt()
    cache = make_cache(lm.config.num_layers, len(ids))
    last = prefill(lm.model, mx.array([ids]), cache, Execution(chunk=chunk))
    assert relative(last[0], full_pass(lm, ids)[-1]) <= CLOSE
    assert {layer.offset for layer in cache} == {len(ids)}


@each_family
@each_chunk
def test_all_logits_are_those_of_one_pass_for_any_chunk(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    ids = checkpoints.prompt()
    cache = make_cache(lm.config.num_layers, len(ids))
    logits = all_logits(lm.model, mx.array([ids]), cache, Execution(chunk=chunk))
    assert relative(logits[0], full_pass(lm, ids)) <= CLOSE
    assert {layer.offset for layer in cache} == {len(ids)}


@each_chunk
def test_progress_is_told_after_every_chunk(openelm: Path, chunk: int) -> None:
    lm = elm_mlx.load(openelm)
    ids, heard = checkpoints.prompt(), list[tuple[int, int]]()
    cache = make_cache(lm.config.num_layers, len(ids))
    prefill(lm.model, mx.array([ids]), cache, Execution(chunk=chunk), progress=lambda *at: heard.append(at))
    assert heard == [(min(done, 72), 72) for done in range(chunk, 72 + chunk, chunk)]


@each_family
def test_a_batch_of_two_equals_each_row_alone(lm: elm_mlx.LanguageModel) -> None:
    rows = [checkpoints.prompt(33, seed) for seed in (1, 2)]
    cache = make_cache(lm.config.num_layers, 40)
    prefill(lm.model, mx.array(rows), cache, Execution(chunk=10))
    together = lm.model(mx.array([[5], [6]]), cache)[:, -1]
    for row, token, logits in zip(rows, (5, 6), together, strict=True):
        assert relative(logits, full_pass(lm, [*row, token])[-1]) <= 1e-4


@each_family
def test_the_numbers_do_not_depend_on_what_the_cache_held_before(lm: elm_mlx.LanguageModel) -> None:
    ids = mx.array([checkpoints.prompt(20)])
    cache = make_cache(lm.config.num_layers, 60)
    prefill(lm.model, mx.array([checkpoints.prompt(50, seed=9)]), cache)
    for layer in cache:
        layer.trim(50)
    again = prefill(lm.model, ids, cache)
    assert mx.array_equal(again, prefill(lm.model, ids, make_cache(lm.config.num_layers, 60)))
