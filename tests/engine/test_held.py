"""Caches that an engine holds for whoever asked for them: given back once, kept only where they may be, never lost."""

from __future__ import annotations

import pytest
from helpers import checkpoints
from helpers.engines import TOKEN_BYTES, make_engine

import elm_mlx
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import CANCELLED, LENGTH

pytestmark = pytest.mark.parametrize("source", ["openelm"], indirect=True)
HELD = Request(tuple(checkpoints.prompt(40)), 1, hold=True)


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def test_caches_are_held_until_they_are_let_go_and_then_kept(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    one = engine.submit(HELD)
    run(engine)
    assert (one.finish, engine.limits.budget.reserved) == (LENGTH, 40 * TOKEN_BYTES)
    for _ in range(2):  # the second time changes nothing
        engine.let_go(one)
        assert (engine.held, engine.limits.budget.reserved) == ({}, 0)
        assert [entry.ids.tolist() for entry in engine.prefixes.entries] == [list(HELD.prompt)]


@pytest.mark.parametrize("steps", [0, 1])
def test_who_lets_go_before_the_answer_has_ended_leaves_nothing(lm: elm_mlx.LanguageModel, steps: int) -> None:
    engine = make_engine(lm)
    one = engine.submit(HELD)
    for _ in range(steps):
        engine.step()
    assert not one.finish
    engine.let_go(one)
    run(engine)
    assert (one.finish, engine.held, engine.limits.budget.reserved) == (CANCELLED, {}, 0)


def test_what_was_held_is_not_kept_where_the_request_or_the_engine_keeps_nothing(lm: elm_mlx.LanguageModel) -> None:
    for engine, keep in ((make_engine(lm), False), (make_engine(lm, reuse=False), True)):
        one = engine.submit(Request(HELD.prompt, 1, hold=True, keep=keep))
        run(engine)
        engine.let_go(one)
        assert not engine.prefixes.entries


def test_closing_gives_back_what_is_held(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    one = engine.submit(HELD)
    run(engine)
    engine.close()
    engine.let_go(one)
    assert (engine.held, engine.limits.budget.reserved, engine.limits.budget.stored) == ({}, 0, 0)
