"""The engine gives every request what it would get alone, whatever else runs, and gives back all that it took."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.engines import TOKEN_BYTES, RandomRun, check_answers, make_engine, plain_ids
from helpers.families import second_family_slow

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine import batch
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import CANCELLED, ERROR, LENGTH, STOP
from elm_mlx.errors import InvalidRequest, NotEnoughMemory, QueueFull

one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
PLACES = {
    "slots": lambda one, other: True,
    "rows": lambda one, other: False,
    "mixed": lambda one, other: one // 20 == other // 20,
}


@pytest.fixture(params=list(PLACES))
def places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which rows share slots: all, none, or those of like length."""
    monkeypatch.setattr(batch, "alike", PLACES[request.param])
    return str(request.param)


def random_options(rng: random.Random) -> dict[str, object]:
    return {
        "rows": rng.choice([1, 2, 3, 8]),
        "positions": rng.choice([300, 100_000]),
        "reuse": rng.random() < 0.7,
        "submit": rng.choice(["early", "late"]),
        "grow_by": rng.choice([0, 8, 16]),
        "chunk": rng.choice([16, 64, 256]),
    }


def check_random_runs(lm: elm_mlx.LanguageModel, seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        engine = make_engine(lm, **random_options(rng))
        check_answers(lm, RandomRun(engine, rng, rng.randint(1, 10)).run())
        left = engine.active, engine.waiting, engine.running, engine.reading, engine.batch.groups, engine.batch.alone
        assert not any(left)
        assert not engine.has_work
        assert engine.limits.budget.reserved == engine.limits.budget.idle == 0


@second_family_slow
def test_random_requests_together_get_what_each_gets_alone(lm: elm_mlx.LanguageModel, places: str) -> None:
    check_random_runs(lm, range(3))


@pytest.mark.slow
@each_family
def test_many_random_requests_together_get_what_each_gets_alone(lm: elm_mlx.LanguageModel, places: str) -> None:
    check_random_runs(lm, range(100, 120))


@pytest.mark.parametrize("source", ["openelm", pytest.param("llama-3.1", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_quantized_weights_give_in_a_batch_what_they_give_alone(source: Path, tmp_path: Path, count: int) -> None:
    from elm_mlx.convert import convert

    output = convert(source, tmp_path / "4bit", bits=4, group_size=32).output
    check_random_runs(elm_mlx.load(output, cpu_policy="plain"), range(count))


@each_family
def test_rows_that_begin_and_end_at_any_step_share_slots(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, reuse=False)
    requests = [Request(tuple(checkpoints.prompt(10 + n, seed=n)), 20) for n in range(6)]
    sequences = []
    for request in requests:
        sequences.append(engine.submit(request))
        for _ in range(4):
            engine.step()
    assert len(engine.batch.groups) == 1
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)


@one_family
def test_one_row_keeps_its_own_cache_and_several_share_one(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    engine.submit(Request(tuple(checkpoints.prompt(10)), 30))
    for _ in range(3):
        engine.step()
    assert (len(engine.batch.alone), len(engine.batch.groups)) == (1, 0)
    engine.submit(Request(tuple(checkpoints.prompt(12)), 30))
    for _ in range(3):
        engine.step()
    assert (len(engine.batch.alone), len(engine.batch.groups)) == (0, 1)


@each_family
def test_a_first_id_waits_for_no_other_step(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, head, made = make_engine(lm), lm.model.head, list[int]()

    def counting(states: mx.array) -> mx.array:
        made.append(len(states))
        return head(states)

    monkeypatch.setattr(lm.model, "head", counting)
    both = [engine.submit(Request(tuple(checkpoints.prompt(n)), 5)) for n in (12, 13)]
    while not any(one.ids for one in both):
        engine.step()
    assert sum(made) == 2  # those of the prompts
    while engine.has_work:
        engine.step()
    check_answers(lm, both)


@each_family
def test_a_long_prompt_does_not_stop_the_others_for_longer_than_a_chunk(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, chunk=8, streams=())
    running = engine.submit(Request(tuple(checkpoints.prompt(5)), 40))
    for _ in range(3):
        engine.step()
    late = engine.submit(Request(tuple(checkpoints.prompt(64)), 3))
    for step in range(1, 9):
        held = len(running.ids)
        engine.step()
        assert len(running.ids) == held + 1
        assert late.read == 8 * step
    while engine.has_work:
        engine.step()
    check_answers(lm, [running, late])


@each_family
def test_a_cancel_takes_effect_at_the_next_step_wherever_the_request_is(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, rows=1, chunk=8)
    running, waiting = (engine.submit(Request(tuple(checkpoints.prompt(20)), 50)) for _ in range(2))
    engine.step()
    assert 0 < running.read < 20  # its prompt is being read
    for one in (waiting, running):
        engine.cancel(one)
    engine.step()
    assert (waiting.finish, running.finish) == (CANCELLED, CANCELLED)
    assert engine.limits.budget.reserved == 0
    third = engine.submit(Request(tuple(checkpoints.prompt(20)), 50))
    while len(third.ids) < 5:
        engine.step()
    engine.cancel(third)
    engine.step()
    assert third.finish == CANCELLED
    assert third.ids == plain_ids(lm, third.request)[: len(third.ids)]
    assert not engine.has_work


@one_family
def test_requests_wait_for_room_in_the_budget_and_come_in_order(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, positions=100, reuse=False)
    sequences = [engine.submit(Request(tuple(checkpoints.prompt(20)), 30)) for _ in range(5)]  # 49 positions each
    ended: list[int] = []
    most = 0
    while engine.has_work:
        ended += [one.number for one in engine.step() if one.finish]
        most = max(most, len(engine.running) + bool(engine.reading))
    assert most == 2
    assert ended == [one.number for one in sequences]


@one_family
def test_a_request_that_can_never_fit_is_refused_with_the_numbers(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, positions=40)
    with pytest.raises(NotEnoughMemory) as caught:
        engine.submit(Request(tuple(checkpoints.prompt(20)), 30))
    assert (caught.value.needed, caught.value.available) == (4900, 4000)
    assert not engine.active


@one_family
def test_without_a_number_an_answer_may_have_what_the_budget_has_room_for(lm: elm_mlx.LanguageModel) -> None:
    context = lm.config.context_length
    prompt = tuple(checkpoints.prompt(20))
    assert make_engine(lm).submit(Request(prompt)).room == context - 20
    assert make_engine(lm, positions=8 * 300).submit(Request(prompt)).room == min(context - 20, 280)
    assert make_engine(lm).submit(Request(prompt, 10**9)).room == context - 20


@one_family
def test_without_a_number_an_answer_is_cut_to_a_budget_that_is_small(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, positions=50)
    one = engine.submit(Request(tuple(checkpoints.prompt(20))))
    while engine.has_work:
        engine.step()
    assert (len(one.ids), one.finish) == (31, LENGTH)  # the last id takes no position
    with pytest.raises(NotEnoughMemory):
        engine.submit(Request(tuple(checkpoints.prompt(51))))


@one_family
def test_a_request_ends_that_a_budget_made_smaller_can_never_hold(lm: elm_mlx.LanguageModel) -> None:
    """Another model that is loaded leaves less for caches; nothing waits for ever by that."""
    engine = make_engine(lm, positions=100)
    first, large, small = (engine.submit(Request(tuple(checkpoints.prompt(20)), n)) for n in (30, 60, 10))
    engine.step()
    engine.limits.budget.limit = 60 * TOKEN_BYTES
    while engine.has_work:
        engine.step()
    assert (large.finish, large.ids) == (ERROR, [])
    assert isinstance(large.error, NotEnoughMemory)
    assert (large.error.needed, large.error.available) == (7900, 6000)
    check_answers(lm, [first, small])


@one_family
def test_a_full_queue_refuses_what_comes(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, queue=2)
    for _ in range(2):
        engine.submit(Request((1,), 5))
    with pytest.raises(QueueFull, match="2 requests are waiting"):
        engine.submit(Request((1,), 5))
    engine.step()
    engine.submit(Request((1,), 5))


@each_family
def test_a_reader_that_stalls_stops_its_own_row_alone(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, reuse=False)
    stalled, other = (engine.submit(Request(tuple(checkpoints.prompt(9 + n)), 30)) for n in range(2))
    stalled.bound = 4
    while engine.has_work:
        engine.step()
    assert len(other.ids) == 30
    assert stalled.finish is None
    assert 4 <= len(stalled.ids) <= 5
    stalled.taken = len(stalled.ids)
    assert engine.has_work
    stalled.bound = None
    while engine.has_work:
        engine.step()
    check_answers(lm, [stalled, other])


@each_family
def test_an_answer_ends_with_its_first_stop_id_or_its_length(lm: elm_mlx.LanguageModel) -> None:
    prompt = tuple(checkpoints.prompt(20))
    free = plain_ids(lm, Request(prompt, 16))
    engine = make_engine(lm)
    stopped = engine.submit(Request(prompt, 16, stop_ids=frozenset({free[5]})))
    whole = engine.submit(Request(prompt, 16))
    while engine.has_work:
        engine.step()
    assert (stopped.ids, stopped.finish) == (free[: free.index(free[5]) + 1], STOP)
    assert (whole.ids, whole.finish) == (free, LENGTH)


@each_family
def test_an_engine_that_is_given_another_ones_plans_takes_the_same_steps(lm: elm_mlx.LanguageModel) -> None:
    """So several machines can follow one: what depends on clocks and readers is in the plan."""
    rng = random.Random(5)
    leader, follower = (make_engine(lm, rows=3, chunk=16) for _ in range(2))
    run = RandomRun(leader, rng, 8)
    while run.todo or not all(one.finish for one in run.sequences):
        held = len(run.sequences)
        run.act()
        followed = [follower.submit(one.request) for one in run.sequences[held:]]
        assert [one.number for one in followed] == [one.number for one in run.sequences[held:]]
        plan = leader.plan()
        told = [(one.number, list(one.ids), one.finish) for one in leader.carry_out(plan)]
        assert [(one.number, one.ids, one.finish) for one in follower.carry_out(plan)] == told


@one_family
def test_a_failed_step_ends_its_rows_and_leaves_the_waiting(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, rows=2)
    first, second, third = (engine.submit(Request(tuple(checkpoints.prompt(9 + n)), 12)) for n in range(3))
    while not second.ids:
        engine.step()
    error = RuntimeError("the device failed")
    assert engine.fail(error) == [first, second]
    assert [one.error for one in (first, second)] == [error, error]
    while engine.has_work:
        engine.step()
    check_answers(lm, [third])
    assert engine.limits.budget.reserved == 0


@one_family
def test_closing_ends_everything(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, rows=2)
    sequences = [engine.submit(Request(tuple(checkpoints.prompt(9)), 12)) for _ in range(5)]
    for _ in range(4):
        engine.step()
    assert engine.close() == sequences
    assert {one.finish for one in sequences} == {CANCELLED}
    assert not engine.has_work
    assert engine.limits.budget.reserved == 0


@one_family
def test_seeds_belong_to_rows(lm: elm_mlx.LanguageModel) -> None:
    """One request and seed give the same ids in every company, and other seeds other ids."""
    request = Request(tuple(checkpoints.prompt(12)), 20, Sampling(1.5, top_k=50), seed=7)
    others = [Request(tuple(checkpoints.prompt(30, seed=n)), 25, Sampling(1.0), seed=n) for n in range(3)]
    drawn = []
    for company in ([], others[:1], others):
        engine = make_engine(lm, reuse=False)
        for other in company:
            engine.submit(other)
        one = engine.submit(request)
        while engine.has_work:
            engine.step()
        drawn.append(one.ids)
    assert drawn[0] == drawn[1] == drawn[2] == plain_ids(lm, request)


@one_family
def test_a_prompt_that_is_empty_or_fills_the_context_is_refused(lm: elm_mlx.LanguageModel) -> None:
    engine, context = make_engine(lm), lm.config.context_length
    for length in (0, context):
        with pytest.raises(InvalidRequest, match=f"has {length} ids"):
            engine.submit(Request((1,) * length, 5))
    assert engine.submit(Request((1,) * (context - 1), 5)).room == 1
