"""A stopper ends its own answer with the id that it names, in any company, and nothing of the step under way stays."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
from helpers import checkpoints
from helpers.engines import RandomRun, check_answers, make_engine, plain_ids
from helpers.families import second_family_slow

import elm_mlx
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import ERROR, LENGTH, STOP
from elm_mlx.engine.sources import held_ids
from elm_mlx.errors import BadCheckpoint, ElmError, RequestFailed

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)


class Remainder:
    """Ends an answer where the sum of its ids leaves 0 by a number: it depends on all ids, and on their order of
    coming."""

    def __init__(self, by: int) -> None:
        self.by, self.sum = by, 0

    def add(self, token: int) -> str | None:
        self.sum += token
        return None if self.sum % self.by else f"{self.sum} / {self.by}"


class After:
    """Ends an answer with its id of this number."""

    def __init__(self, count: int) -> None:
        self.left = count

    def add(self, token: int) -> str | None:
        self.left -= 1
        return None if self.left else "enough"


class Failing:
    """Fails at its third id."""

    def __init__(self, error: Exception) -> None:
        self.error, self.left = error, 3

    def add(self, token: int) -> str | None:
        self.left -= 1
        if not self.left:
            raise self.error
        return None


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def check_random_runs(lm: elm_mlx.LanguageModel, seeds: range) -> None:
    stopped = 0
    for seed in seeds:
        rng = random.Random(seed)
        engine = make_engine(
            lm, rows=rng.choice([1, 3, 8]), reuse=rng.random() < 0.7, submit=rng.choice(["early", "late"]), chunk=16
        )
        work = RandomRun(engine, rng, 8)
        makers = [None, partial(Remainder, 5), partial(After, 1), partial(After, 4)]
        work.todo = [replace(request, stopper=rng.choice(makers)) for request in work.todo]
        check_answers(lm, work.run())
        stopped += sum(isinstance(one.stop_reason, str) for one in work.sequences)
        for one in work.sequences:
            assert (one.stop_reason is not None) == (one.finish == STOP)
            assert not isinstance(one.stop_reason, int) or one.ids[-1] == one.stop_reason in one.request.stop_ids
        assert engine.limits.budget.reserved == engine.limits.budget.idle == 0
    assert stopped > len(seeds)


@second_family_slow
def test_random_requests_with_stoppers_get_what_each_gets_alone(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(4))


@pytest.mark.slow
@each_family
def test_many_random_requests_with_stoppers_get_what_each_gets_alone(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(100, 130))


@one_family
@pytest.mark.parametrize("submit", ["early", "late"])
@pytest.mark.parametrize("company", [0, 2])
def test_the_caches_that_are_kept_of_a_stopped_answer_hold_exactly_its_ids(
    lm: elm_mlx.LanguageModel, submit: str, company: int
) -> None:
    """The step under way has read the last id; a later request that goes on from these caches must not see that."""
    prompt = tuple(checkpoints.prompt(40))
    engine = make_engine(lm, submit=submit)
    for n in range(company):
        engine.submit(Request(tuple(checkpoints.prompt(40, seed=n + 5)), 60, keep=False))
    one = engine.submit(Request(prompt, 30, stopper=partial(After, 7)))
    while not one.finish:
        engine.step()
    assert (one.finish, one.stop_reason, len(one.ids)) == (STOP, "enough", 7)
    run(engine)
    assert [(tuple(kept.ids), kept.cache[0].offset) for kept in engine.prefixes.entries] == [(held_ids(one), 46)]
    going_on = Request((*held_ids(one), 9, 8, 7), 10)
    next_one = engine.submit(going_on)
    run(engine)
    assert next_one.reused == 46
    assert next_one.ids == plain_ids(lm, going_on)


@one_family
def test_a_stop_at_the_last_id_that_an_answer_may_have_is_a_stop(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    prompt = tuple(checkpoints.prompt(9))
    ends = [engine.submit(Request(prompt, 4, stopper=partial(After, count))) for count in (1, 4, 5)]
    run(engine)
    assert [(len(one.ids), one.finish) for one in ends] == [(1, STOP), (4, STOP), (4, LENGTH)]


@one_family
def test_a_stop_id_comes_before_what_the_stopper_says(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    prompt = tuple(checkpoints.prompt(9))
    first = plain_ids(lm, Request(prompt, 1))[0]
    one = engine.submit(Request(prompt, 4, stop_ids=frozenset({first}), stopper=partial(After, 1)))
    run(engine)
    assert (one.finish, one.stop_reason) == (STOP, first)


@one_family
@pytest.mark.parametrize("error", [ValueError("no text"), BadCheckpoint("a tokenizer that fails")])
def test_a_stopper_that_fails_ends_its_own_row_with_a_typed_error(lm: elm_mlx.LanguageModel, error: Exception) -> None:
    engine = make_engine(lm)
    requests = [Request(tuple(checkpoints.prompt(9 + n)), 12) for n in range(3)]
    requests[1] = replace(requests[1], stopper=partial(Failing, error))
    sequences = [engine.submit(request) for request in requests]
    run(engine)
    failed = sequences.pop(1)
    assert (failed.finish, len(failed.ids)) == (ERROR, 2)
    if isinstance(error, ElmError):
        assert failed.error is error
    else:
        assert isinstance(failed.error, RequestFailed)
        assert failed.error.__cause__ is error
    check_answers(lm, sequences)
    assert engine.limits.budget.reserved == 0
