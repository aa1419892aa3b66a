"""Judges proposals: one pass of the model over all of them, and the ids that it draws there itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from elm_mlx.engine.cache.rows import Attends
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.finite import peaks
from elm_mlx.engine.logprobs import TokenLogprob, noter_for
from elm_mlx.engine.masks import restrict
from elm_mlx.engine.sampling import Sampler, State


class Asked(NamedTuple):
    """What is asked of the ids that are drawn: how many alternatives are noted beside the log-probability of each (None
    notes none), and the masks of a constraint that they keep to, uint32 [L, ceil(V / 32)] (None: there is none)."""

    logprobs: int | None = None
    words: np.ndarray | None = None


class Judged(NamedTuple):
    """The `ids` that the model drew after the last id and after each proposal, the `peaks` of their logits, the
    sampler's state after each draw, and each one's log-probabilities where they were asked for, else None.

    The first `right` proposals are what the model drew itself; the id after those stands, too, and whatever comes later
    was drawn from a text that is not the answer.
    """

    ids: list[int]
    peaks: list[float]
    states: list[State]
    entries: Sequence[TokenLogprob | None]
    right: int


NOTHING = Asked()


def judge(model: Decodes, cache: Sequence[Attends], sampler: Sampler, ids: mx.array, asked: Asked = NOTHING) -> Judged:
    """Feeds `ids` [L]: the last id, which the cache does not hold, and k = L - 1 proposals; draws an id after each of
    them, as `asked`.

    Each is drawn by the request's own sampler, in order, as plain decoding draws it: with the key that is next. So as
    long as proposals are right the ids are those of plain decoding, and their distribution is the model's whatever was
    proposed, since a proposal is compared with a draw and never decides one. The cache then holds all k + 1 ids, and
    the sampler has drawn as many: the caller takes back what is wrong.
    """
    logits = model.head(model.few_hidden(ids[None], cache))[0]  # [L, V]
    allowed = logits if asked.words is None else restrict(logits, asked.words, sampler.compiled)
    drawn, states = draw_in_order(sampler, allowed)
    highest = peaks(logits)  # [L]
    noter = noter_for([(place, asked.logprobs) for place in range(len(ids))], sampler.compiled)
    note = noter(logits, drawn) if noter else None
    mx.eval(drawn, highest, ids, *(note.arrays() if note else ()))
    own: Any = drawn.tolist()
    numbers: Any = highest.tolist()
    fed: Any = ids.tolist()
    entries = [entry for _, entry in note.entries()] if note else [None] * len(own)
    return Judged(own, numbers, states, entries, count_equal(fed[1:], own))


def with_last(last: int, proposals: mx.array | list[int]) -> mx.array:
    """The ids that `judge` is fed, [1 + k]."""
    guesses = proposals if isinstance(proposals, mx.array) else mx.array(proposals, mx.uint32)
    return mx.concatenate([mx.array([last], mx.uint32), guesses])


def draw_in_order(sampler: Sampler, logits: mx.array) -> tuple[mx.array, list[State]]:
    """Draws an id after each of L places, one after the other: logits [L, V] -> ids [L], and the sampler's state after
    each."""
    if sampler.is_plain:  # nothing depends on the draw before
        return mx.argmax(logits, axis=-1), [sampler.state] * len(logits)
    drawn, states = [], []
    for place in range(len(logits)):
        drawn.append(sampler(logits[place : place + 1]))
        states.append(sampler.state)
    return mx.concatenate(drawn), states


def count_equal(proposals: Any, drawn: list[int]) -> int:
    """How many proposals are what was drawn, up to the first that is not."""
    for place, (guess, token) in enumerate(zip(proposals, drawn, strict=False)):
        if guess != token:
            return place
    return len(proposals)
