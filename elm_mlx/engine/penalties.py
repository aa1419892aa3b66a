"""What changes logits before an id is chosen: biases, banned ids, and penalties for what was said before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from elm_mlx.config.generation import Sampling
from elm_mlx.device.compile import compile_function


def penalise(
    logits: mx.array, bias: mx.array, prompt: mx.array, counts: mx.array, strengths: Sequence[mx.array]
) -> mx.array:
    """Logits [B, V] -> changed logits [B, V] in float32: first the bias is added, then the repetition penalty divides
    or multiplies, then the presence and the frequency penalty are taken off.

    `bias` [V] is minus infinity for a banned id. `prompt` [B, V] is true for the ids of a row's prompt, and `counts`
    [B, V] is how often its answer has each id. `strengths` are those of the three penalties, in this order. Each array
    may also be one number for all. The repetition penalty is that of transformers (and of CTRL, arXiv:1909.05858, but
    for the sign of a logit), the others are OpenAI's: of the answer alone.
    """
    repetition, presence, frequency = strengths
    x = logits.astype(mx.float32) + bias
    repeated = mx.where(x < 0, x * repetition, x / repetition)
    said = counts > 0
    return mx.where(prompt | said, repeated, x) - presence * said - frequency * counts


def count(counts: mx.array, ids: mx.array, places: mx.array) -> mx.array:
    """Counts [B, V] with one more for each row's id [B]; `places` are the numbers from 0 to V - 1."""
    return counts + (places == ids[:, None].astype(places.dtype))


# One kernel each. The numbers are arguments, as a new number in the code of a kernel would have it built anew.
COMPILED = compile_function(penalise), compile_function(count)
PLAIN = penalise, count
NEUTRAL = 0.0  # a bias, or a count, that changes nothing


class Penalties:
    """The changes that one Sampling makes, and what was said so far in the rows that are drawn with it.

    `counts` [B, V] is how often each row's answer has each id, in float32, or None where no penalty asks. It is a
    value: every draw makes a new one, on the device, without the id being read. With `compiled` a change is one kernel,
    and so is counting.
    """

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]], compiled: bool = False) -> None:
        self.sampling, self.prompts = sampling, prompts
        self.functions = COMPILED if compiled else PLAIN
        self.counts: mx.array | None = None
        self.constants: tuple[Any, ...] | None = None  # made when the size of the vocabulary is known

    def begin(self, vocabulary: int) -> None:
        """Makes the arrays for a vocabulary of this size, once."""
        if self.constants:
            return
        s, width = self.sampling, (len(self.prompts), vocabulary)
        bias = bias_of(s, vocabulary) if s.logit_bias or s.banned else mx.array(NEUTRAL)
        prompt = mx.array(marks(self.prompts, vocabulary) if s.repetition_penalty != 1 else False)
        strengths = [mx.array(x, mx.float32) for x in (s.repetition_penalty, s.presence_penalty, s.frequency_penalty)]
        if s.penalizes and self.counts is None:
            self.counts = mx.zeros(width)
        self.constants = bias, prompt, strengths, mx.arange(vocabulary, dtype=mx.int32)

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits [B, V] -> changed logits [B, V] in float32."""
        self.begin(logits.shape[-1])
        assert self.constants
        bias, prompt, strengths, _ = self.constants
        if self.counts is None:
            return logits.astype(mx.float32) + bias
        changed: mx.array = self.functions[0](logits, bias, prompt, self.counts, strengths)
        return changed

    def count(self, ids: mx.array) -> None:
        """Counts the ids [B] that were drawn, one for each row."""
        if self.counts is not None and self.constants:
            self.counts = self.functions[1](self.counts, ids, self.constants[3])


def joined(parts: Sequence[Penalties], vocabulary: int) -> Penalties:
    """The Penalties of rows that have one Sampling, as rows of one."""
    first = parts[0]
    both = Penalties(first.sampling, [prompt for part in parts for prompt in part.prompts])
    both.functions = first.functions
    for part in parts:
        part.begin(vocabulary)
    assert first.constants
    bias, prompt, *others = first.constants
    if prompt.ndim:
        prompt = mx.concatenate([part.constants[1] for part in parts if part.constants])
    both.constants = bias, prompt, *others
    if first.counts is not None:
        both.counts = mx.concatenate([part.counts for part in parts if part.counts is not None])
    return both


def bias_of(sampling: Sampling, vocabulary: int) -> mx.array:
    """What is added to each logit [V]; minus infinity for a banned id. Ids beyond the vocabulary are passed over: a
    model's file may ban some."""
    added = np.zeros(vocabulary, np.float32)
    for id, bias in (*sampling.logit_bias, *((id, -math.inf) for id in sampling.banned)):
        if id < vocabulary:
            added[id] = bias
    return mx.array(added)


def marks(prompts: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Whether each row's prompt has each id: [B, V]."""
    marked = np.zeros((len(prompts), vocabulary), np.bool_)
    for row, prompt in zip(marked, prompts, strict=True):
        row[list(prompt)] = True
    return marked
