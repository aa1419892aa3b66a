"""Judges proposals: one pass of the model over all of them, and the ids that it draws there itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from elm_mlx.engine.cache.rows import Attends
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.finite import peaks
from elm_mlx.engine.sampling import Sampler, State


class Judged(NamedTuple):
    """The `ids` that the model drew after the last id and after each proposal, the `peaks` of their logits, and the
    sampler's state after each draw. The first `right` proposals are what it drew itself; the id after those stands,
    too, and whatever comes later was drawn from a text that is not the answer."""

    ids: list[int]
    peaks: list[float]
    states: list[State]
    right: int


def judge(
    model: Decodes, cache: Sequence[Attends], sampler: Sampler, last: int, proposals: mx.array | list[int]
) -> Judged:
    """Feeds the `last` id, which the cache does not hold, and k proposals, and draws an id after each of them.

    Each is drawn by the request's own sampler, in order, as plain decoding draws it: with the key that is next. So as
    long as proposals are right the ids are those of plain decoding, and their distribution is the model's whatever was
    proposed, since a proposal is compared with a draw and never decides one. The cache then holds all k + 1 ids, and
    the sampler has drawn as many: the caller takes back what is wrong.
    """
    guesses = proposals if isinstance(proposals, mx.array) else mx.array(proposals, mx.uint32)
    ids = mx.concatenate([mx.array([last], mx.uint32), guesses])  # [L], L = k + 1
    logits = model.head(model.few_hidden(ids[None], cache))[0]  # [L, V]
    drawn, states = [], list[State]()
    for place in range(len(ids)):
        drawn.append(sampler(logits[place : place + 1]))
        states.append(sampler.state)
    found, highest = mx.concatenate(drawn), peaks(logits)  # [L] each
    mx.eval(found, highest, guesses)
    own: Any = found.tolist()
    numbers: Any = highest.tolist()
    return Judged(own, numbers, states, count_equal(guesses.tolist(), own))


def count_equal(proposals: Any, drawn: list[int]) -> int:
    """How many proposals are what was drawn, up to the first that is not."""
    for place, (guess, token) in enumerate(zip(proposals, drawn, strict=False)):
        if guess != token:
            return place
    return len(proposals)
