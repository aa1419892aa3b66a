"""Penalties, biases and bans change logits exactly as described, count every id once, and cost rows nothing of each
other."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints
from helpers.engines import check_answers, make_engine, plain_ids
from hypothesis import given, settings
from hypothesis import strategies as st

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.penalties import Penalties
from elm_mlx.engine.request import Request
from elm_mlx.engine.samplers import Samplers
from elm_mlx.engine.sampling import Sampler
from elm_mlx.errors import InvalidRequest

VOCABULARY = 12
ALL = Sampling(
    1.0, repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((2, 3.0),), banned=(7,)
)


def plain_penalties(logits: np.ndarray, s: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
    """The slow, obvious twin: logits [V] of one row, an id at a time."""
    changed = logits.astype(np.float64)
    for id, bias in s.logit_bias:
        changed[id] += bias
    for id in {*prompt, *answer}:
        changed[id] = changed[id] * s.repetition_penalty if changed[id] < 0 else changed[id] / s.repetition_penalty
    for id in set(answer):
        changed[id] -= s.presence_penalty + s.frequency_penalty * list(answer).count(id)
    changed[list(s.banned)] = -math.inf
    return changed


def test_penalties_on_logits_reckoned_by_hand() -> None:
    penalties = Penalties(ALL, [[0, 1]])
    logits = mx.array([[3.0, -3.0, 0.0, 3.0, -3.0, 1.0, 1.0, 9.0, 0.0, 0.0, 0.0, 0.0]])
    penalties.begin(VOCABULARY)
    for id in (3, 4, 3):
        penalties.count(mx.array([id]))
    #        prompt     bias  3: 3 / 1.5 - 0.5 - 2 * 0.25; 4: -3 * 1.5 - 0.5 - 0.25
    hand = [2.0, -4.5, 3.0, 1.0, -5.25, 1.0, 1.0, -math.inf, 0.0, 0.0, 0.0, 0.0]
    assert penalties(logits)[0].tolist() == hand


numbers = st.floats(-20, 20, width=32)
samplings = st.builds(
    Sampling,
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.2]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([-0.5, 0.0, 0.3]),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY - 1), numbers, max_size=3).map(lambda d: tuple(d.items())),
    banned=st.lists(st.integers(0, VOCABULARY - 1), max_size=3).map(tuple),
)
ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=6)


@settings(max_examples=100)
@given(samplings, ids, ids, st.lists(numbers, min_size=VOCABULARY, max_size=VOCABULARY))
def test_any_penalties_are_those_of_the_plain_twin(
    sampling: Sampling, prompt: list[int], answer: list[int], logits: list[float]
) -> None:
    penalties = Penalties(sampling, [prompt])
    penalties.begin(VOCABULARY)
    for id in answer:
        penalties.count(mx.array([id], mx.uint32))
    found = np.array(penalties(mx.array([logits])))[0]
    expected = plain_penalties(np.array(logits), sampling, prompt, answer)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_greedy_with_penalties_takes_the_highest_changed_logit() -> None:
    sampler = Sampler(Sampling(frequency_penalty=1.0, banned=(4,)))
    logits = mx.array([[1.0, 2.5, 0.0, 1.4, 9.0]])
    assert [int(sampler(logits).item()) for _ in range(5)] == [1, 1, 3, 0, 1]


def test_draws_with_penalties_have_the_shares_of_the_changed_distribution() -> None:
    """Chi-square: 10,000 first draws, with 7 degrees of freedom."""
    sampling = Sampling(0.7, repetition_penalty=1.3, logit_bias=((2, 1.0),), banned=(5,))
    logits, count = np.linspace(-1, 1.5, 9), 10_000
    rows = Samplers([Sampler(sampling, seed, (8, 0)) for seed in range(count)])
    drawn = np.bincount(np.array(rows(mx.array(np.tile(logits, (count, 1))))), minlength=9)
    expected = np.exp(plain_penalties(logits, sampling, (8, 0), ()) / 0.7)
    expected *= count / expected.sum()
    assert drawn[5] == expected[5] == 0
    kept = expected > 0
    assert ((drawn - expected)[kept] ** 2 / expected[kept]).sum() < 24.3  # exceeded by chance once in a thousand


@pytest.mark.skipif(not shutil.which("g++"), reason="MLX compiles on a CPU with g++")
def test_compiled_penalties_are_the_plain_ones() -> None:
    logits = mx.random.normal((2, VOCABULARY), key=mx.random.key(6)).astype(mx.float16)
    ways = [Penalties(ALL, [[0, 1], [4]], compiled) for compiled in (False, True)]
    for step in range(4):
        plain, compiled = (np.array(way(logits)) for way in ways)
        assert np.array_equal(plain, compiled)
        for way in ways:
            way.count(mx.array([step, 3], mx.uint32))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="MLX compiles on a CPU with g++")
def test_compiled_steps_draw_what_plain_ones_draw(openelm: Path) -> None:
    lm = elm_mlx.load(openelm, cpu_policy="compiled")
    assert lm.execution.compiled
    engine = make_engine(lm, rows=3)
    samplings = [ALL, ALL, Sampling(repetition_penalty=1.3), Sampling()]
    requests = [
        Request(tuple(checkpoints.prompt(20, seed=n)), 6 + n, sampling, n, logprobs=n or None)
        for n, sampling in enumerate(samplings)
    ]
    sequences = [engine.submit(request) for request in requests]
    while engine.has_work:
        engine.step()
    check_answers(lm, sequences)


def draws(samplers: list[Sampler], count: int) -> list[list[int]]:
    """What the samplers draw together, a list a row, from logits that do not change."""
    logits = mx.random.normal((1, VOCABULARY), key=mx.random.key(5))
    together = Samplers(samplers)
    found = [together(mx.repeat(logits, len(samplers), axis=0)).tolist() for _ in range(count)]
    together.part()
    return [list(row) for row in zip(*found, strict=True)]


def test_rows_draw_together_what_each_draws_alone_while_others_come_and_go() -> None:
    def new(seed: int) -> Sampler:
        return Sampler(ALL if seed % 3 else Sampling(presence_penalty=0.5), seed, (seed, 1))

    alone = [draws([new(seed)], 9)[0] for seed in range(6)]
    rows = [new(seed) for seed in range(6)]
    found: list[list[int]] = [[] for _ in rows]
    for members in ([0, 1, 2, 3], [1, 2, 3, 4, 5], [5, 2], [4], [5, 4, 3, 2, 1, 0]):
        for row, ids in zip(members, draws([rows[row] for row in members], 2), strict=True):
            found[row] += ids
    assert all(own[: len(ids)] == ids for own, ids in zip(alone, found, strict=True))
    assert min(map(len, found)) >= 4


@pytest.mark.parametrize(
    "sampling", [ALL, Sampling(1.0), Sampling(repetition_penalty=1.5)], ids=["all", "draw", "greedy"]
)
def test_a_state_that_is_put_back_takes_back_the_draws_since(sampling: Sampling) -> None:
    logits = mx.random.normal((1, VOCABULARY), key=mx.random.key(2))
    sampler = Sampler(sampling, 4, (3, 5))
    first = [int(sampler(logits).item()) for _ in range(4)]
    saved = sampler.state
    further = [int(sampler(logits).item()) for _ in range(6)]
    for _ in range(2):
        sampler.state = saved
        assert [int(sampler(logits).item()) for _ in range(6)] == further
    fresh = Sampler(sampling, 4, (3, 5))
    assert [int(fresh(logits).item()) for _ in range(10)] == first + further


@pytest.mark.parametrize("source", ["openelm"], indirect=True)
def test_a_prompt_whose_beginning_was_held_has_the_same_penalties(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm)
    request = Request(tuple(checkpoints.prompt(40)), 12, Sampling(0.8, repetition_penalty=1.4), 3)
    for _ in range(2):
        sequence = engine.submit(request)
        while engine.has_work:
            engine.step()
        assert sequence.ids == plain_ids(lm, request)
    assert sequence.reused > 0


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"repetition_penalty": math.inf},
        {"presence_penalty": math.nan},
        {"presence_penalty": 101},
        {"frequency_penalty": "1"},
        {"logit_bias": ((1, math.nan),)},
        {"logit_bias": ((1, math.inf),)},
        {"logit_bias": ((1, 1.0), (1, 2.0))},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((0.5, 1.0),)},
        {"logit_bias": 3},
        {"banned": (-1,)},
        {"banned": ("a",)},
    ],
    ids=str,
)
def test_penalties_without_a_meaning_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["openelm"], indirect=True)
def test_an_answer_that_has_ended_holds_no_arrays_of_the_vocabulary(lm: elm_mlx.LanguageModel) -> None:
    engine = make_engine(lm, rows=3, reuse=False)
    sampling = Sampling(repetition_penalty=1.3, logit_bias=((3, 1.0),))
    sequences = [engine.submit(Request(tuple(checkpoints.prompt(9)), tokens, sampling)) for tokens in (3, 5, 5, 7)]
    while engine.has_work:
        engine.step()
    assert not [one for one in sequences if one.sampler.penalties]
    check_answers(lm, sequences)
