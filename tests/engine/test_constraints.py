"""An answer that has to keep a form has no other id, wherever its row is, and in every company the ids that the plain
loop gives; what fails in its constraint ends it alone."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.automata import Automaton, Broken, Told, only
from helpers.engines import SAMPLINGS, RandomRun, check_logprobs, draft_of, make_engine, plain_ids
from helpers.oracles import Oracles, always

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.plain import generate
from elm_mlx.engine.request import Request
from elm_mlx.engine.sampling import Sampler
from elm_mlx.engine.sequence import CANCELLED, ERROR, LENGTH, STOP, Sequence
from elm_mlx.engine.speculate import Speculation
from elm_mlx.errors import InvalidRequest, NotFinite, RequestFailed

V = checkpoints.VOCAB
one_family = pytest.mark.parametrize("source", ["openelm"], indirect=True)
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
STOPS = frozenset({7, 40, 111})


def constrained(request: Request, seed: int, vocabulary: int = V, **options: Any) -> Request:
    return replace(request, constraint=lambda: Automaton(seed, vocabulary, request.stop_ids, **options))


def request_of(seed: int = 0, tokens: int = 20, sampling: Sampling = SAMPLINGS[0], **options: Any) -> Request:
    stops = options.pop("stop_ids", STOPS)
    return constrained(
        Request(tuple(checkpoints.prompt(12, seed=seed)), tokens, sampling, seed, stops), seed, **options
    )


def run(engine: Engine, *requests: Request) -> list[Sequence]:
    """Answers some requests together."""
    sequences = [engine.submit(request) for request in requests]
    while engine.has_work:
        engine.step()
    assert engine.limits.budget.reserved == engine.limits.budget.idle == 0
    assert not any(one.guide for one in sequences)
    return sequences


def twin(lm: elm_mlx.LanguageModel, request: Request) -> tuple[list[int], bool, list[mx.array]]:
    """(the ids of the plain loop, whether it failed, the logits of each)."""
    ids: list[int] = []
    seen: list[mx.array] = []
    constraint: Any = request.constraint() if request.constraint else None
    if constraint:
        constraint.banned = request.sampling.banned
    assert request.max_tokens
    cache = make_cache(lm.config.num_layers, len(request.prompt) + request.max_tokens)
    sampler = Sampler(request.sampling, request.seed, request.prompt)
    try:
        for token in generate(lm.model, request.prompt, cache, sampler, max_tokens=request.max_tokens,
                              stop_ids=request.stop_ids, constraint=constraint, seen=seen):  # fmt: skip
            ids.append(token)
    except Broken:
        return ids, True, seen
    return ids, False, seen


def check(lm: elm_mlx.LanguageModel, sequences: list[Sequence]) -> None:
    """Asserts that each sequence is what the plain loop says, and has no id that its constraint forbids."""
    for one in sequences:
        check_allowed(one)
        expected, fails, seen = twin(lm, one.request)
        if one.finish == CANCELLED:
            expected = expected[: len(one.ids)]
        else:
            assert (one.finish == ERROR) == fails
        assert one.ids == expected, one.request
        check_logprobs(one, seen[: len(one.ids)])


def check_allowed(one: Sequence) -> None:
    if one.request.constraint:
        constraint: Any = one.request.constraint()
        constraint.fails_after = None
        for token in one.ids:
            assert constraint.allowed()[token]
            assert token not in one.request.sampling.banned
            if token not in one.request.stop_ids:
                constraint.accept(token)


def constrain(request: Request, rng: random.Random) -> Request:
    """Gives most requests a constraint; some of these fail."""
    if rng.random() < 0.3:
        return request
    fails = rng.choice([None, None, None, rng.randint(0, 12)])
    return constrained(request, rng.randint(0, 10**6), fails_after=fails, accepting=rng.random() < 0.5)


def speculations(lm: elm_mlx.LanguageModel, rng: random.Random) -> Speculation | None:
    count, layers = rng.choice([1, 2, 3, 4, 6]), lm.config.num_layers
    return rng.choice([None, Oracles(lm, rng.choice([0.6, 1.0]), count),
                       Speculation(lm.model, layers, draft_of(lm), costs=always(count)),
                       Speculation(lm.model, layers, costs=always(count))])  # fmt: skip


def check_random_runs(lm: elm_mlx.LanguageModel, seeds: range) -> None:
    ends: set[str | None] = set()
    for seed in seeds:
        rng = random.Random(seed)
        options = {"rows": rng.choice([1, 2, 5]), "submit": rng.choice(["early", "late"]), "chunk": 16}
        engine = make_engine(lm, speculation=speculations(lm, rng), **options)
        requests = RandomRun(engine, rng, rng.randint(2, 9))
        requests.todo = [
            replace(constrain(request, rng), lookup=rng.random() < 0.3, family=rng.choice([None, 1]))
            for request in requests.todo
        ]
        check(lm, requests.run())
        ends |= {one.finish for one in requests.sequences if one.request.constraint}
        assert engine.limits.budget.reserved == engine.limits.budget.idle == 0
    assert {STOP, LENGTH, ERROR} <= ends


@one_family
def test_random_answers_keep_their_form_and_are_those_of_the_plain_loop(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(3))


@pytest.mark.slow
@each_family
def test_many_random_answers_keep_their_form_and_are_those_of_the_plain_loop(lm: elm_mlx.LanguageModel) -> None:
    check_random_runs(lm, range(100, 130))


@pytest.mark.slow
@one_family
def test_compiled_steps_give_the_same_answers(source: Any) -> None:
    lm = elm_mlx.load(source, cpu_policy="compiled")
    check(lm, run(make_engine(lm), *(request_of(n, sampling=s) for n, s in enumerate(SAMPLINGS[1:4])), request_of(9)))


@one_family
@pytest.mark.parametrize("sampling", SAMPLINGS[6:], ids=str)
def test_any_sampling_draws_from_what_is_allowed(lm: elm_mlx.LanguageModel, sampling: Sampling) -> None:
    free = replace(request_of(5, sampling=sampling), constraint=None)
    check(lm, run(make_engine(lm), request_of(1, sampling=sampling), free, request_of(3, sampling=sampling)))


@one_family
@pytest.mark.parametrize("vocabulary", [500, 509])
def test_a_vocabulary_that_fills_no_word_has_no_id_beyond_it(
    lm: elm_mlx.LanguageModel, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = lm.model.head
    monkeypatch.setattr(lm.model, "head", lambda states: head(states)[..., :vocabulary])
    options = {"vocabulary": vocabulary, "sampling": Sampling(1.5)}
    check(lm, run(make_engine(lm), *(request_of(seed, **options) for seed in range(3))))


@one_family
def test_ids_that_the_tokenizer_lacks_are_never_drawn(lm: elm_mlx.LanguageModel) -> None:
    """Where a model has more logits than its tokenizer has tokens, the masks allow none of those."""
    known = only(V, *range(300))
    request = replace(
        request_of(sampling=Sampling(2.0), tokens=60), stop_ids=frozenset(), constraint=lambda: Told([known])
    )
    [one] = run(make_engine(lm), request)
    assert (max(one.ids) < 300, len(one.ids)) == (True, 60)


@one_family
def test_the_first_id_after_a_kept_prefix_keeps_the_form_too(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    long = replace(request_of(2), prompt=tuple(checkpoints.prompt(60)))
    check(lm, run(engine, replace(long, constraint=None)))
    again = run(engine, long)
    assert again[0].reused
    check(lm, again)


@one_family
def test_siblings_follow_constraints_of_their_own(lm: elm_mlx.LanguageModel) -> None:
    requests = [
        replace(request_of(4, sampling=Sampling(1.2)), seed=n, family=1, find=False, keep=False) for n in range(4)
    ]
    found = run(make_engine(lm), *requests)
    check(lm, found)
    assert len({tuple(one.ids) for one in found}) > 1


@one_family
def test_a_row_goes_on_in_its_form_after_its_reader_has_stalled(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    one, other = engine.submit(request_of(3, 30)), engine.submit(request_of(8, 60))
    one.bound = 2
    while not other.finish:
        engine.step()
    assert len(one.ids) <= 3
    one.bound = None
    while engine.has_work:
        engine.step()
    check(lm, [one, other])


@one_family
def test_one_id_that_is_allowed_is_drawn_whatever_the_model_says(lm: elm_mlx.LanguageModel) -> None:
    text = [3, 499, 64, 31, 32, 63]
    request = replace(request_of(tokens=6), stop_ids=frozenset(), constraint=lambda: Told([only(V, id) for id in text]))
    assert run(make_engine(lm), request)[0].ids == text


@one_family
def test_a_stop_id_is_drawn_where_the_form_may_end_and_is_not_accepted(lm: elm_mlx.LanguageModel) -> None:
    accepted: list[int] = []

    class Ends(Told):
        def accept(self, token: int) -> None:
            super().accept(token)
            accepted.append(token)

    masks = [only(V, 5), only(V, 6), only(V, 7)]
    [one] = run(make_engine(lm), replace(request_of(), constraint=lambda: Ends(masks)))
    assert (one.ids, one.finish, one.stop_reason, accepted) == ([5, 6, 7], STOP, 7, [5, 6])


@one_family
@pytest.mark.parametrize("accepting", [False, True])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_constraint_that_raises_ends_its_row_alone(lm: elm_mlx.LanguageModel, after: int, accepting: bool) -> None:
    fails = [None, after, None]
    requests = [request_of(n, 12, stop_ids=frozenset(), fails_after=fails[n], accepting=accepting) for n in range(3)]
    found = run(make_engine(lm), *requests)
    check(lm, found)
    assert [one.finish for one in found] == [LENGTH, ERROR, LENGTH]
    assert isinstance(found[1].error, RequestFailed)
    assert isinstance(found[1].error.__cause__, Broken)
    assert len(found[1].ids) == after


@one_family
def test_a_constraint_that_cannot_be_made_refuses_its_request(lm: elm_mlx.LanguageModel) -> None:
    def breaks() -> Automaton:
        raise Broken

    engine = make_engine(lm)
    with pytest.raises(RequestFailed, match="Broken"):
        engine.submit(replace(request_of(), constraint=breaks))
    check(lm, run(engine, request_of()))


@one_family
def test_where_all_that_is_allowed_is_banned_the_row_ends_with_an_error_that_says_so(lm: elm_mlx.LanguageModel) -> None:
    masks = [only(V, 5, 9), only(V, 6)]
    banning = replace(request_of(sampling=Sampling(banned=(6, 9))), constraint=lambda: Told(masks))
    found = run(make_engine(lm), banning, request_of(2))
    assert (found[0].ids, found[0].finish) == ([5], ERROR)
    assert isinstance(found[0].error, InvalidRequest)
    check(lm, found[1:])


@one_family
def test_a_mask_that_allows_nothing_ends_its_row_alone(lm: elm_mlx.LanguageModel) -> None:
    empty = replace(request_of(), constraint=lambda: Told([only(V, 5), only(V)]))
    found = run(make_engine(lm), request_of(2), empty)
    assert (found[1].ids, found[1].finish) == ([5], ERROR)
    check(lm, found[:1])


@one_family
def test_logits_that_are_no_numbers_end_a_constrained_row_as_any_other(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = lm.model.head
    calls: Iterator[int] = iter(range(100))
    monkeypatch.setattr(lm.model, "head", lambda states: head(states) * (np.nan if next(calls) == 3 else 1))
    [one] = run(make_engine(lm), request_of(stop_ids=frozenset()))
    assert isinstance(one.error, NotFinite)
    assert len(one.ids) == 3


@one_family
def test_what_the_model_gives_no_probability_is_not_drawn_for_want_of_better(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = lm.model.head
    never = mx.array(np.where(only(V, 5), -np.inf, 0.0).astype(np.float32))
    monkeypatch.setattr(lm.model, "head", lambda states: head(states) + never)
    for sampling in (Sampling(), Sampling(1.0)):
        [one] = run(make_engine(lm), replace(request_of(sampling=sampling), constraint=lambda: Told([only(V, 5)])))
        assert one.ids == []
        assert isinstance(one.error, RequestFailed)


@one_family
def test_log_probabilities_are_those_of_the_models_own_logits(lm: elm_mlx.LanguageModel) -> None:
    check(lm, run(make_engine(lm), replace(request_of(1), logprobs=5), replace(request_of(2), logprobs=0)))


@one_family
@pytest.mark.parametrize("count", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)])
def test_proposals_change_no_constrained_answer(lm: elm_mlx.LanguageModel, count: int) -> None:
    draft = Speculation(lm.model, lm.config.num_layers, draft_of(lm), costs=always(count))
    accepted = proposed = 0
    for seed, sampling in enumerate((SAMPLINGS[0], SAMPLINGS[3], SAMPLINGS[7])):
        request = request_of(seed, 30, sampling, stop_ids=frozenset())
        for speculation in (Oracles(lm, 0.7, count), Oracles(lm, 1.0, count), draft):
            found = run(make_engine(lm, speculation=speculation), request)
            check(lm, found)
            accepted, proposed = accepted + found[0].accepted, proposed + found[0].proposed
    assert 0 < accepted < proposed


@one_family
def test_a_batch_without_constraints_has_no_part_in_them(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(lm)

    def fails(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(type(engine.batch), "_step_guided", fails)
    run(engine, *(replace(request_of(n), constraint=None) for n in range(3)))


@one_family
def test_each_mask_is_asked_for_once(lm: elm_mlx.LanguageModel) -> None:
    made: list[Automaton] = []

    def make() -> Automaton:
        made.append(Automaton(1, V))
        return made[0]

    request = replace(request_of(tokens=12), stop_ids=frozenset(), constraint=make)
    run(make_engine(lm), request, request_of(3))
    assert (len(made), made[0].asked, made[0].length) == (1, 12, 12)


@one_family
def test_a_first_mask_is_asked_for_when_the_others_have_a_step_to_compute(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, made = lm.model.head, 0

    def counting(states: mx.array) -> mx.array:
        nonlocal made
        made += 1
        return head(states)

    monkeypatch.setattr(lm.model, "head", counting)
    asked: list[int] = []

    class Asked(Automaton):
        def mask(self) -> np.ndarray:
            asked.append(made)
            return super().mask()

    engine = make_engine(lm)
    free = engine.submit(replace(request_of(3, 60), constraint=None, stop_ids=frozenset()))
    while len(free.ids) < 3:
        engine.step()
    one = engine.submit(replace(request_of(tokens=5), constraint=lambda: Asked(1, V, STOPS)))
    before = made
    while not asked:
        engine.step()
    assert one in engine.running
    assert asked[0] - before == 2  # the prompt's, and the step of the other


@one_family
def test_a_mask_is_asked_for_when_the_device_has_the_logits_to_compute(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    submit = mx.async_eval

    def submitting(*arrays: Any) -> None:
        events.append("submit")
        submit(*arrays)

    class Noted(Automaton):
        def mask(self) -> np.ndarray:
            events.append("mask")
            return super().mask()

        def accept(self, token: int) -> None:
            events.append("accept")
            super().accept(token)

    monkeypatch.setattr(mx, "async_eval", submitting)
    run(make_engine(lm), replace(request_of(tokens=4), stop_ids=frozenset(), constraint=lambda: Noted(1, V)))
    first = ["submit", "mask", "submit", "accept"]
    assert events == [*first, "submit", "mask", "submit", *["submit", "accept", "mask", "submit"] * 2, "accept"]


@one_family
def test_a_constraint_goes_with_its_answer(lm: elm_mlx.LanguageModel) -> None:
    made: list[weakref.ref[Automaton]] = []

    def make() -> Automaton:
        one = Automaton(1, V)
        made.append(weakref.ref(one))
        return one

    engine = make_engine(lm)
    free = engine.submit(replace(request_of(3, 60), constraint=None, stop_ids=frozenset()))
    held = engine.submit(replace(request_of(tokens=5), stop_ids=frozenset(), constraint=make))
    while not held.finish:
        engine.step()
    engine.step()
    gc.collect()
    assert not free.finish
    assert made[0]() is None


@one_family
def test_an_engine_that_follows_the_plans_of_another_gives_the_same_constrained_answers(
    lm: elm_mlx.LanguageModel,
) -> None:
    leader, follower = (make_engine(lm, rows=3) for _ in range(2))
    requests = [request_of(n, sampling=Sampling(0.8)) for n in range(5)]
    pairs = [(leader.submit(request), follower.submit(request)) for request in requests]
    while leader.has_work:
        plan = leader.plan()
        leader.carry_out(plan)
        follower.carry_out(plan)
        assert all((one.ids, one.finish) == (other.ids, other.finish) for one, other in pairs)
    assert plain_ids(lm, requests[0]) == pairs[0][0].ids
