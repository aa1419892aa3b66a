"""Speculation changes the speed of an answer and nothing else: not its ids, nor what they are drawn from."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.engines import SAMPLINGS, TOKEN_BYTES, RandomRun, check_answers, draft_of, make_engine, plain_ids
from helpers.families import second_family_slow
from helpers.oracles import Oracle, Oracles, always

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.gate import Gate, WatchingGate
from elm_mlx.engine.request import GREEDY, Request
from elm_mlx.engine.sequence import CANCELLED, ERROR, LENGTH, STOP
from elm_mlx.engine.sequence import Sequence as Answer
from elm_mlx.engine.speculate import Speculation, Speculator
from elm_mlx.errors import NotEnoughMemory

each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)
LENGTHS = (1, 2, 3, 4, 6)
KINDS = (CacheKind(window=24, sinks=4, margin=8), CacheKind(key_bits=8, value_bits=8), CacheKind(window=20))


def own_draft(lm: elm_mlx.LanguageModel, count: int = 3) -> Speculation:
    """The model as its own draft: greedy proposals are all right."""
    return Speculation(lm.model, lm.config.num_layers, draft_of(lm), costs=always(count))


def answer_of(lm: elm_mlx.LanguageModel, speculation: Speculation, request: Request, **options: Any) -> Answer:
    engine = make_engine(lm, speculation=speculation, **options)
    sequence = engine.submit(request)
    while engine.has_work:
        engine.step()
    assert engine.limits.budget.reserved == 0
    assert sequence.speculator is None  # and with it the draft's caches
    return sequence


def request_of(sampling: Sampling = GREEDY, tokens: int = 40, **more: Any) -> Request:
    return Request(tuple(checkpoints.prompt(12)), tokens, sampling, seed=7, **more)


@second_family_slow
@pytest.mark.parametrize("sampling", dict.fromkeys(SAMPLINGS), ids=str)
def test_the_ids_are_those_of_plain_decoding(lm: elm_mlx.LanguageModel, sampling: Sampling) -> None:
    for count, share in ((1, 0.7), (3, 0.0), (3, 1.0), (4, 0.7), (6, 0.9)):
        found = answer_of(lm, Oracles(lm, share, count), request_of(sampling, 20))
        check_answers(lm, [found])
        assert found.proposed
        if share in (0, 1):
            assert found.accepted == found.proposed * share


@second_family_slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_caches_of_other_kinds_forget_wrong_proposals_too(lm: elm_mlx.LanguageModel, kind: CacheKind) -> None:
    for speculation in (Oracles(lm, 0.7, 6), own_draft(lm, 4)):
        found = answer_of(lm, speculation, request_of(tokens=60, cache=kind))
        check_answers(lm, [found])
        assert found.proposed


@one_family
@pytest.mark.slow
def test_compiled_rounds_give_the_ids_of_plain_decoding(source: Any) -> None:
    lm = elm_mlx.load(source, cpu_policy="compiled")
    assert lm.model.step
    for speculation in (own_draft(lm), Oracles(lm, 0.6, 4)):
        found = answer_of(lm, speculation, request_of())
        check_answers(lm, [found])
        assert found.accepted


@one_family
@pytest.mark.parametrize("count", LENGTHS)
def test_a_draft_that_is_the_model_itself_is_always_right(lm: elm_mlx.LanguageModel, count: int) -> None:
    found = answer_of(lm, own_draft(lm, count), request_of(tokens=50))
    check_answers(lm, [found])
    assert found.accepted == found.proposed > 30 * count / (count + 1)


@one_family
@pytest.mark.parametrize(
    "sampling",
    [
        SAMPLINGS[2],
        SAMPLINGS[7],
        *(pytest.param(one, marks=pytest.mark.slow) for one in (SAMPLINGS[1], *SAMPLINGS[3:7])),
    ],
    ids=str,
)
def test_a_draft_proposes_the_likeliest_ids_for_a_sampled_answer_too(
    lm: elm_mlx.LanguageModel, sampling: Sampling
) -> None:
    found = answer_of(lm, own_draft(lm), request_of(sampling))
    check_answers(lm, [found])


@second_family_slow
def test_a_stop_id_amid_accepted_ids_ends_the_answer_there(lm: elm_mlx.LanguageModel) -> None:
    answer = plain_ids(lm, request_of())
    for place in range(1, 9):
        if answer[place] in answer[:place]:
            continue
        found = answer_of(lm, own_draft(lm, 4), request_of(stop_ids=frozenset([answer[place]])))
        assert (found.ids, found.finish) == (answer[: place + 1], STOP)


@one_family
@pytest.mark.parametrize("tokens", range(1, 12))
def test_an_answer_never_gets_more_ids_than_it_may_have(lm: elm_mlx.LanguageModel, tokens: int) -> None:
    found = answer_of(lm, own_draft(lm, 4), request_of(tokens=tokens))
    assert (found.ids, found.finish) == (plain_ids(lm, request_of(tokens=tokens)), LENGTH)


@one_family
def test_a_round_gives_several_ids_and_a_cancel_ends_the_answer_between_two(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, speculation=own_draft(lm, 4))
    request = Request(tuple(checkpoints.prompt(40)), 40)
    one = engine.submit(request)
    counts = []
    while len(one.ids) < 12:
        before = len(one.ids)
        engine.step()
        counts.append(len(one.ids) - before)
    assert max(counts) >= 5
    engine.cancel(one)
    engine.step()
    assert one.finish == CANCELLED
    assert one.ids == plain_ids(lm, one.request)[: len(one.ids)]
    again = engine.submit(request)  # begins with what the cancelled one has left
    while engine.has_work:
        engine.step()
    assert again.reused
    check_answers(lm, [again])


@one_family
def test_a_row_that_others_join_pauses_its_proposals_and_goes_on_with_them_alone(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, speculation=own_draft(lm, 3))
    first = engine.submit(request_of(Sampling(0.9, top_k=30), 60))
    while len(first.ids) < 10:
        engine.step()
    second = engine.submit(Request(tuple(checkpoints.prompt(14, seed=3)), 10, Sampling(0.9, top_k=30), seed=1))
    engine.step()
    engine.step()
    before = first.proposed, second.proposed
    while not second.finish:
        assert not engine.plan().proposals
        engine.step()
    assert (first.proposed, second.proposed) == before
    while engine.has_work:
        engine.step()
    assert first.proposed > before[0]
    check_answers(lm, [first, second])


def speculations(lm: elm_mlx.LanguageModel, rng: random.Random) -> Speculation:
    count = rng.choice(LENGTHS)
    return rng.choice([lambda: Oracles(lm, rng.random(), count), lambda: own_draft(lm, count)])()


def check_random_runs(lm: elm_mlx.LanguageModel, seeds: range) -> None:
    proposed = accepted = 0
    for seed in seeds:
        rng = random.Random(seed)
        options = {"rows": rng.choice([1, 2, 3]), "submit": rng.choice(["early", "late"]), "chunk": 16}
        engine = make_engine(lm, speculation=speculations(lm, rng), **options)
        run = RandomRun(engine, rng, rng.randint(1, 8), (PLAIN, PLAIN, *KINDS))
        run.todo = [replace(request, lookup=rng.random() < 0.3) for request in run.todo]
        check_answers(lm, run.run())
        proposed += sum(one.proposed for one in run.sequences)
        accepted += sum(one.accepted for one in run.sequences)
        assert engine.limits.budget.reserved == engine.limits.budget.idle == 0
    assert 0 < accepted < proposed


@second_family_slow
def test_random_requests_get_their_ids_whatever_is_proposed(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(4))


@pytest.mark.slow
@each_family
def test_many_random_requests_get_their_ids_whatever_is_proposed(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(100, 140))


@one_family
def test_a_second_engine_that_follows_the_plans_takes_the_same_steps(lm: elm_mlx.LanguageModel) -> None:
    leader, follower = (make_engine(lm, speculation=own_draft(lm, 3)) for _ in range(2))
    requests = [request_of(Sampling(0.7), 30), replace(request_of(tokens=20), lookup=True)]
    pairs = [(leader.submit(request), follower.submit(request)) for request in requests]
    while leader.has_work:
        plan = leader.plan()
        leader.carry_out(plan)
        follower.carry_out(plan)
        for one, other in pairs:
            assert (one.ids, one.proposed, one.accepted) == (other.ids, other.proposed, other.accepted)
    assert any(one.proposed for one, _ in pairs)


@one_family
def test_a_draft_reads_a_long_prompt_a_chunk_a_step(lm: elm_mlx.LanguageModel) -> None:
    draft = replace(draft_of(lm), execution=replace(lm.execution, chunk=16, streams=()))
    speculation = Speculation(lm.model, lm.config.num_layers, draft, costs=always(3))
    engine = make_engine(lm, speculation=speculation)
    one = engine.submit(Request(tuple(checkpoints.prompt(100)), 30))
    held = [0]
    while engine.has_work:
        proposer: Any = one.speculator.proposer if one.speculator else None
        held.append(proposer.held if proposer else held[-1])
        engine.step()
    assert max(after - before for before, after in pairwise(held)) <= 16 + 4
    assert one.accepted
    check_answers(lm, [one])


@one_family
def test_a_draft_proposes_nothing_beyond_its_context(lm: elm_mlx.LanguageModel) -> None:
    short = replace(draft_of(lm), context=30)
    engine = make_engine(lm, speculation=Speculation(lm.model, lm.config.num_layers, short, costs=always(4)))
    sequences = [engine.submit(request_of(tokens=40)), engine.submit(Request(tuple(checkpoints.prompt(50)), 10))]
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)
    assert sequences[0].accepted <= 30 - 12
    assert sequences[1].proposed == 0


@one_family
def test_a_request_reserves_what_its_draft_takes(lm: elm_mlx.LanguageModel) -> None:
    speculation = own_draft(lm)
    engine = make_engine(lm, speculation=speculation, positions=60)
    with pytest.raises(NotEnoughMemory):
        engine.submit(request_of(tokens=30))  # 41 positions, twice
    one = engine.submit(replace(request_of(tokens=30), lookup=True))
    engine.step()
    assert one.reserved == 41 * TOKEN_BYTES


@one_family
def test_nothing_is_proposed_where_wrong_proposals_could_not_be_taken_back(lm: elm_mlx.LanguageModel) -> None:
    speculation = own_draft(lm)
    request = request_of(cache=CacheKind(window=64, margin=2))
    assert speculation.draft_for(request) is None
    assert speculation.bytes_of(request, 100) == 0


@one_family
def test_logits_that_are_no_numbers_end_the_answer_where_plain_decoding_ends(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, head = plain_ids(lm, request_of()), lm.model.head
    whole: list[int] = []

    def poisoned(states: mx.array) -> mx.array:
        logits = head(states)
        if states.ndim == 3:  # a round
            logits = mx.concatenate([logits[:, :2], mx.full(logits[:, 2:].shape, mx.nan)], axis=1)
        return logits

    monkeypatch.setattr(lm.model, "head", poisoned)
    found = answer_of(lm, own_draft_with(lm, answer), request_of())
    whole += found.ids
    assert found.finish == ERROR
    assert whole == answer[: len(whole)]
    assert len(whole) == 3  # one of the prompt, two of the first round


def own_draft_with(lm: elm_mlx.LanguageModel, answer: list[int]) -> Speculation:
    """Proposes a known answer."""

    class Known(Speculation):
        def begin(self, sequence: Answer) -> Speculator:
            return Speculator(sequence, Oracle(answer, len(sequence.request.prompt), 1.0, 0), lambda: Gate(always(4)))

    return Known(lm.model, lm.config.num_layers)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the engine measured what a round costs."""
    from elm_mlx.engine import speculate

    calls: list[int] = []

    def measured(*_: object) -> dict[int, float]:
        calls.append(1)
        return always(2)

    monkeypatch.setattr(speculate, "measure_costs", measured)
    return lambda: len(calls)


@one_family
def test_rounds_are_measured_once_and_never_for_a_request_without(
    lm: elm_mlx.LanguageModel, counting: Callable[[], int]
) -> None:
    speculation = Speculation(lm.model, lm.config.num_layers, draft_of(lm))
    answer_of(lm, Speculation(lm.model, lm.config.num_layers), request_of())
    assert counting() == 0
    for _ in range(2):
        assert answer_of(lm, speculation, request_of()).accepted
    assert counting() == 1


@one_family
def test_a_draft_takes_no_bytes_beyond_its_context(lm: elm_mlx.LanguageModel) -> None:
    short = replace(draft_of(lm), context=30)
    speculation = Speculation(lm.model, lm.config.num_layers, short, costs=always(3))
    engine = make_engine(lm, speculation=speculation, positions=200)
    one = engine.submit(request_of(tokens=100, cache=CacheKind(window=16, margin=8)))
    engine.step()
    assert one.reserved == (24 + 30) * TOKEN_BYTES
    while engine.has_work:
        engine.step()
    check_answers(lm, [one])
    assert one.accepted


@one_family
def test_where_no_proposal_can_pay_a_draft_takes_nothing(lm: elm_mlx.LanguageModel) -> None:
    speculation = Speculation(lm.model, lm.config.num_layers, draft_of(lm), most=0)
    speculation.measure()
    assert not vars(speculation).keys() & {"draft_costs", "lookup_costs"}  # nothing was measured
    for request in (request_of(), request_of(lookup=True)):
        assert speculation.bytes_of(request, 100) == 0
        check_answers(lm, [answer_of(lm, speculation, request)])
    assert not vars(speculation).keys() & {"draft_costs", "lookup_costs"}


@one_family
def test_a_row_that_goes_on_alone_holds_no_buffers_of_the_others(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, speculation=own_draft(lm, 3))
    first, second = (engine.submit(request_of(tokens=tokens)) for tokens in (60, 8))
    shared: list[weakref.ref[object]] = []
    while not second.finish:
        engine.step()
        shared += [weakref.ref(group.slots) for group in engine.batch.groups]
    while not first.proposed:
        engine.step()
    gc.collect()
    assert shared
    assert not any(slots() for slots in shared)


@one_family
def test_a_gate_watches_the_ids_of_plain_steps_and_none_of_rounds(lm: elm_mlx.LanguageModel) -> None:
    watched: list[bool] = []

    class Watches(WatchingGate):
        def choose(self) -> int:
            return 4

        def watch(self, was_right: bool) -> None:
            watched.append(was_right)

    class Watched(Oracles):
        def begin(self, sequence: Answer) -> Speculator | None:
            speculator = super().begin(sequence)
            assert speculator
            speculator.open_gate = lambda: Watches(always(4))
            return speculator

    found = answer_of(lm, Watched(lm, 0.5), request_of(tokens=40))
    check_answers(lm, [found])
    assert 0 < found.accepted < found.proposed
    assert len(watched) <= 3  # the first id, and the last ones, for which a round has no room


@one_family
def test_a_round_makes_one_mask_for_all_layers_wherever_its_cache_is_from(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elm_mlx.engine.cache import causal

    made: list[int] = []

    def counting(*shape: int, **options: Any) -> Any:
        made.append(1)
        return np.tri(*shape, **options)

    monkeypatch.setattr(causal, "np", SimpleNamespace(tri=counting, tile=np.tile, bool_=np.bool_))
    for kind in (PLAIN, CacheKind(key_bits=8, value_bits=8)):
        engine = make_engine(lm, speculation=Oracles(lm, 1.0, 4), reuse=False)
        first = engine.submit(request_of(tokens=60, cache=kind))
        second = engine.submit(Request(tuple(checkpoints.prompt(14)), 8))
        while not second.finish:
            engine.step()  # plain rows share slots, which the first leaves when it goes on alone
        before, proposed = len(made), first.proposed
        for rounds in range(1, 4):
            engine.step()
            assert (len(made) - before, first.proposed - proposed) == (rounds, 4 * rounds)


@one_family
def test_the_first_id_waits_for_no_draft_and_for_no_measuring(
    lm: elm_mlx.LanguageModel, counting: Callable[[], int]
) -> None:
    engine = make_engine(lm, speculation=Speculation(lm.model, lm.config.num_layers, draft_of(lm)))
    one = engine.submit(request_of())
    while not one.ids:
        news = engine.step()
    assert (news, len(one.ids), counting()) == ([one], 1, 0)
    speculator: Any = one.speculator
    assert speculator.proposer.held == 0
    engine.step()
    assert (len(one.ids), counting()) == (1 + 3, 1)
    assert speculator.proposer.held
