"""Rows that share slots take no more bytes than the budget has."""

from __future__ import annotations

import pytest
from helpers import checkpoints
from helpers.engines import check_answers

import elm_mlx
from elm_mlx.engine import batch
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kv import cache_bytes
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import LENGTH

ROOM = 60  # positions of each row

pytestmark = pytest.mark.parametrize("source", ["openelm"], indirect=True)


def engine_for(lm: elm_mlx.LanguageModel, rows: int, budget: float) -> Engine:
    """An engine for so many rows, whose budget, in the model's real bytes, is for `budget` rows."""
    unit = lm.config.kv_bytes_per_token(32)
    limits = Limits(lm.config.context_length, unit, Budget(int(ROOM * budget * unit)), rows)
    return Engine(lm.model, lm.config.num_layers, limits, lm.execution)


def request(number: int) -> Request:
    prompt = checkpoints.prompt(20 + number, seed=number)
    return Request(tuple(prompt), ROOM + 1 - len(prompt))


def row_bytes(engine: Engine) -> int:
    return ROOM * engine.limits.token_bytes


def most_rows(engine: Engine) -> int:
    """Answers all requests, and returns how many were answered at once. Asserts that the caches of all rows took no
    more than the budget and one row: one that was read and does not sit in its slot yet."""
    most = 0
    while engine.has_work:
        engine.step()
        own = sum(cache_bytes(one.cache) for one in engine.active.values() if one.cache)
        held = own + sum(group.slots.nbytes for group in engine.batch.groups)
        assert held <= 1.1 * (engine.limits.budget.limit + row_bytes(engine))  # buffers have a column to spare
        most = max(most, len(engine.running) + bool(engine.reading))
    return most


@pytest.mark.parametrize("count", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_however_many_wait_the_slots_are_those_that_the_budget_holds(lm: elm_mlx.LanguageModel, count: int) -> None:
    engine = engine_for(lm, rows=16, budget=3.5)
    sequences = [engine.submit(request(n)) for n in range(count)]
    assert most_rows(engine) == 3
    check_answers(lm, sequences)


def test_free_slots_are_room_for_the_next_rows_alone(lm: elm_mlx.LanguageModel) -> None:
    engine = engine_for(lm, rows=4, budget=4)
    budget = engine.limits.budget
    sequences = [engine.submit(request(n)) for n in range(4)]
    while not all(one.ids for one in sequences):
        engine.step()
    for one in sequences[1:3]:
        engine.cancel(one)
    engine.step()
    assert budget.idle == 2 * row_bytes(engine)
    assert not budget.has_room(1)
    sequences += [engine.submit(request(n)) for n in range(4, 6)]
    assert most_rows(engine) == 4
    check_answers(lm, sequences)
    assert budget.reserved == budget.idle == 0


def test_free_slots_beside_paused_rows_keep_nobody_waiting(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_for(lm, rows=4, budget=4)
    sequences = [engine.submit(request(n)) for n in range(4)]
    while not all(one.ids for one in sequences):
        engine.step()
    for one in sequences[2:]:
        engine.cancel(one)
    for one in sequences[:2]:
        one.bound = 1
    engine.step()
    monkeypatch.setattr(batch, "alike", lambda one, other: False)  # so the next row cannot move into the slots
    sequences.append(engine.submit(request(5)))
    while engine.has_work:
        engine.step()
    assert sequences[-1].finish == LENGTH
    for one in sequences[:2]:
        one.bound = None
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)
