"""Requests with caches of different kinds run together, reuse what is kept of theirs, and take what they reserve."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.dense import dense_pass
from helpers.engines import TOKEN_BYTES, RandomRun, check_answers, make_engine, plain_ids
from helpers.families import second_family_slow

import elm_mlx
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.cache.kv import cache_bytes
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.prefill import rounds
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import LENGTH, Sequence
from elm_mlx.errors import InvalidRequest, NotEnoughMemory

one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
WINDOW = CacheKind(16, 2, margin=8)
KINDS = (
    PLAIN,
    PLAIN,
    WINDOW,
    CacheKind(16, 3, margin=40, reach=70),
    CacheKind(None, 0, 8, 8),
    CacheKind(20, 0, 8, 4, margin=4),
)


def answer(engine: Engine, request: Request) -> Sequence:
    """The sequence of a request that nothing runs beside."""
    sequence = engine.submit(request)
    while not sequence.finish:
        engine.step()
    return sequence


def check_random_runs(lm: elm_mlx.LanguageModel, seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        engine = make_engine(
            lm,
            rows=rng.choice([1, 2, 3, 8]),
            positions=rng.choice([400, 100_000]),
            reuse=rng.random() < 0.7,
            submit=rng.choice(["early", "late"]),
            grow_by=rng.choice([0, 8]),
            chunk=rng.choice([16, 64, 256]),
        )
        check_answers(lm, RandomRun(engine, rng, rng.randint(3, 10), KINDS).run())
        assert not any([engine.active, engine.running, engine.reading, engine.batch.groups, engine.batch.alone])
        assert engine.limits.budget.reserved == engine.limits.budget.idle == 0


@second_family_slow
def test_rows_of_all_kinds_together_get_what_each_gets_alone(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(2))


@pytest.mark.slow
@each_family
def test_many_rows_of_all_kinds_together_get_what_each_gets_alone(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(100, 125))


@each_family
@pytest.mark.parametrize("kind", [WINDOW, CacheKind(16, 4, reach=90), CacheKind(40, 4, 8, 8, margin=3)])
def test_the_engine_shows_each_id_what_the_window_shows(lm: elm_mlx.LanguageModel, kind: CacheKind) -> None:
    """Against one pass over everything with the window as a mask, far beyond the window."""
    request = Request(tuple(checkpoints.prompt(70)), 40, cache=kind)
    ids = answer(make_engine(lm, chunk=32), request).ids
    logits = dense_pass(lm, [*request.prompt, *ids[:-1]], kind)[len(request.prompt) - 1 :]
    likeliest = logits.max(axis=-1)
    drawn = mx.take_along_axis(logits, mx.array(ids)[:, None], axis=1)[:, 0]
    assert float((likeliest - drawn).max()) <= 1e-3 * float(likeliest.max())


@one_family
def test_a_window_goes_on_where_the_context_ends(lm: elm_mlx.LanguageModel) -> None:
    context = lm.config.context_length
    long = Request(tuple(checkpoints.prompt(context - 10)), 40, cache=WINDOW)
    assert len(answer(make_engine(lm), long).ids) == 40
    longer = Request(tuple(checkpoints.prompt(context + 30)), 5, cache=CacheKind(16))
    assert answer(make_engine(lm), longer).ids == plain_ids(lm, longer)
    with pytest.raises(InvalidRequest, match="fewer than the context"):
        make_engine(lm).submit(Request(longer.prompt, 5))
    assert len(answer(make_engine(lm), Request(long.prompt, 40)).ids) == 10
    assert answer(make_engine(lm), Request(long.prompt, None, cache=WINDOW)).finish == LENGTH  # not endless


@one_family
def test_a_request_reserves_what_its_kind_takes(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, positions=300, head_dim=16, float_bits=32)
    prompt = tuple(checkpoints.prompt(200))
    for kind, columns in ((PLAIN, 209), (CacheKind(16, 2, margin=8), 26)):
        sequence = engine.submit(Request(prompt, 10, cache=kind, keep=False))
        engine.step()
        assert engine.limits.budget.reserved == columns * TOKEN_BYTES
        while not sequence.finish:
            engine.step()
    with pytest.raises(NotEnoughMemory, match="for 409 tokens, and caches have"):
        engine.submit(Request(prompt, 210))
    assert len(answer(engine, Request(prompt, 210, cache=CacheKind(16, 2, margin=8))).ids) == 210
    quantized = CacheKind(None, 0, 4, 4)
    assert engine.limits.bytes_of(quantized, 8) == 8 * TOKEN_BYTES * (32 * 4 + 64) // (16 * 32)


@one_family
def test_the_bytes_reserved_are_those_that_caches_take(lm: elm_mlx.LanguageModel) -> None:
    config, bits = lm.config, 8 * lm.model.dtype.size
    for kind in (CacheKind(16, 2, margin=30), CacheKind(None, 0, 8, 4), CacheKind(16, 0, 8, 8, margin=9)):
        sequence = make_engine(lm).submit(Request(tuple(checkpoints.prompt(90)), 20, cache=kind))
        engine = make_engine(lm)
        sequence = engine.submit(sequence.request)
        while len(sequence.ids) < 19:
            engine.step()
        assert sequence.cache
        planned = kind.bytes_of(109, config.kv_bytes_per_token(bits), config.head_dim, bits)
        assert cache_bytes(sequence.cache) <= planned * (kind.columns(109) + 1) / kind.columns(109)


@one_family
def test_a_next_turn_begins_with_what_is_kept_of_its_kind_alone(lm: elm_mlx.LanguageModel) -> None:
    prompt = tuple(checkpoints.prompt(60))
    for kind in (WINDOW, CacheKind(None, 0, 8, 8), CacheKind(16, 0, 8, 8)):
        engine = make_engine(lm)
        first = answer(engine, Request(prompt, 10, cache=kind))
        turn = Request((*prompt, *first.ids[:-3], 7, 8, 9), 10, cache=kind)
        other = answer(engine, Request(turn.prompt, 10))
        assert (other.reused, other.ids) == (0, plain_ids(lm, Request(turn.prompt, 10)))
        again = answer(engine, turn)
        assert (again.reused, again.ids) == (len(prompt) + 7, plain_ids(lm, turn))


@one_family
def test_a_ring_that_has_forgotten_the_shared_beginning_is_not_used(lm: elm_mlx.LanguageModel) -> None:
    prompt = tuple(checkpoints.prompt(60))
    engine = make_engine(lm)
    answer(engine, Request((*prompt, *checkpoints.prompt(40, seed=3)), 10, cache=WINDOW))
    request = Request((*prompt, 5), 10, cache=WINDOW)
    again = answer(engine, request)
    assert (again.reused, again.ids) == (0, plain_ids(lm, request))
    assert len(engine.prefixes.entries) == 2  # neither can stand for the other


@one_family
def test_a_running_row_lends_its_beginning_to_its_own_kind(lm: elm_mlx.LanguageModel) -> None:
    prompt = tuple(checkpoints.prompt(60))
    for kind, reused in ((CacheKind(None, 0, 8, 8), 60), (CacheKind(16, 0, margin=40), 60), (WINDOW, 0)):
        engine = make_engine(lm)
        first = engine.submit(Request(prompt, 40, cache=kind))
        while len(first.ids) < 20:
            engine.step()
        request = Request((*prompt, 5, 6), 10, cache=kind)
        second = engine.submit(request)
        while not (first.finish and second.finish):
            engine.step()
        assert (second.reused, second.ids) == (reused, plain_ids(lm, request))
        assert first.ids == plain_ids(lm, first.request)


def test_a_prompt_in_a_window_is_read_in_rounds_of_one_size() -> None:
    """What a round takes grows with the positions in memory, and these do not grow."""
    area = Execution(chunk=256, chunk_area=256 * 1024)
    sizes = [one[0][1].stop - one[0][1].start for one in rounds(256 * 40, area, 0, most=700)]
    assert sizes == [256] * 40
    assert rounds(256 * 40, area)[-1][-1][1].stop == 256 * 40
    assert len(rounds(256 * 40, area)) > 40
