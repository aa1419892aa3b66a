"""What the options of a request add to the kernels of a step: nothing where they are off, a few where they are on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tape
from kernels import RESHAPES, VIEWS, Kernel
from kernels import kernels as launches

from elm_mlx.config.generation import Sampling
from elm_mlx.device.compile import compile_function
from elm_mlx.engine import logprobs, masks, penalties, top_p
from elm_mlx.engine.batch import Batch
from elm_mlx.engine.guide import FREE
from elm_mlx.engine.guided import guided_rows
from elm_mlx.engine.logprobs import noter_for
from elm_mlx.engine.samplers import Samplers
from elm_mlx.engine.sampling import Sampler

VOCABULARY = 64
ALL = Sampling(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.1, logit_bias=((3, 1.0),), banned=(7,))


@pytest.fixture
def compiled(recorder: tape.Recorder, monkeypatch: pytest.MonkeyPatch) -> tape.Recorder:
    """The recorder, with this module's functions compiled after its stand-in for mx.compile was there."""
    monkeypatch.setattr(penalties, "COMPILED", tuple(map(compile_function, penalties.PLAIN)))
    monkeypatch.setattr(logprobs, "COMPILED_KEYS", compile_function(logprobs.keys_of))
    monkeypatch.setattr(masks, "COMPILED", compile_function(masks.forbid))
    monkeypatch.setattr(top_p, "SEARCH", compile_function(partial(top_p.by_searching, bits=2)))
    return recorder


def launched(
    samplings: list[Sampling], asked: list[int | None], recorder: tape.Recorder, dtype: mx.Dtype = mx.bfloat16
) -> list[Kernel]:
    """The kernels of a step whose logits are looked up in a table, by these samplings and numbers of alternatives."""
    table = mx.random.normal((VOCABULARY, VOCABULARY), key=mx.random.key(0)).astype(dtype)
    mx.eval(table)

    def decode() -> Iterator[Any]:
        samplers = Samplers([Sampler(one, 1, (5, 6), compiled=True) for one in samplings])
        noter = noter_for(list(enumerate(asked)), compiled=True)
        ids = mx.array([5] * len(samplings), mx.uint32)
        while True:
            logits = table[ids]
            ids = samplers(logits)
            notes = noter(logits, ids).arrays() if noter else []
            mx.async_eval(ids, *counts(samplers), *notes)  # what the engine leaves to the next step is counted in this
            yield

    return launches(tape.recorded(decode, recorder))


def counts(samplers: Samplers) -> list[mx.array]:
    """The counts of ids that the samplers of a step have just made."""
    held = [group.penalties or group.samplers[0].penalties for group in samplers.groups]
    return [one.counts for one in held if one and one.counts is not None]


def added(samplings: list[Sampling], asked: list[int | None], recorder: tape.Recorder) -> int:
    """How many kernels these options add to those of greedy decoding."""
    plain = launched([Sampling()] * len(samplings), [None] * len(samplings), recorder)
    return len(launched(samplings, asked, recorder)) - len(plain)


@pytest.mark.parametrize("rows", [1, 3])
def test_penalties_biases_and_bans_add_two_kernels_together(rows: int, compiled: tape.Recorder) -> None:
    assert added([ALL] * rows, [None] * rows, compiled) == 2


@pytest.mark.parametrize("rows", [1, 3])
def test_biases_alone_add_two_kernels(rows: int, compiled: tape.Recorder) -> None:
    assert added([Sampling(logit_bias=((3, 1.0),))] * rows, [None] * rows, compiled) == 2  # a cast, and the sum


@pytest.mark.parametrize(("asked", "kernels"), [([0], 3), ([5], 5), ([5, 0, 20], 5), ([None, 5, 20], 6)])
def test_log_probabilities_add_six_kernels_at_most(
    asked: list[int | None], kernels: int, compiled: tape.Recorder
) -> None:
    assert added([Sampling()] * len(asked), asked, compiled) == kernels


@pytest.mark.parametrize("rows", [1, 3])
def test_searching_for_the_top_p_takes_as_many_kernels_whatever_the_logits_are(
    rows: int, compiled: tape.Recorder
) -> None:
    logits = mx.random.normal((rows, top_p.SORTED_UP_TO + 1))

    def decode() -> Iterator[Any]:
        while True:
            mx.async_eval(top_p.keep_top_p(logits, 0.9, compiled=True))
            yield

    fused = tape.recorded(decode, compiled).fused
    assert sum(times for name, times in fused.items() if name not in RESHAPES | VIEWS) == 50


@pytest.mark.parametrize(("vocabulary", "kernels"), [(64, 1), (50, 2)])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_constraint_adds_one_kernel_for_all_rows_and_one_more_where_logits_fill_no_word(
    rows: int, vocabulary: int, kernels: int, compiled: tape.Recorder
) -> None:
    logits = mx.random.normal((rows, vocabulary)).astype(mx.bfloat16)
    words = np.full((rows, 2), FREE)
    mx.eval(logits)

    def decode(masked: bool) -> Iterator[Any]:
        while True:
            mx.async_eval(mx.argmax(masks.restrict(logits, words, True) if masked else logits, axis=-1))
            yield

    plain, masked = (len(launches(tape.recorded(partial(decode, one), compiled))) for one in (False, True))
    assert masked - plain == kernels


def test_options_that_are_off_make_no_stage() -> None:
    assert Sampler(Sampling(0.7, top_k=5, top_p=0.9, min_p=0.1)).penalties is None
    assert noter_for([(1, None), (2, None)]) is None
    assert Batch(None, None).noter is Batch(None, None).guided is None  # type: ignore[arg-type]
    assert guided_rows([None]) is None
