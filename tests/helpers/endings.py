"""Ends of texts scored one after the other, each by the logits of its whole text: what faster ways must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

import elm_mlx
from elm_mlx.api.endings import Ending, EndingScore


def slow_score(lm: elm_mlx.LanguageModel, one: Ending, logits: mx.array | None = None) -> EndingScore:
    """One end, by logits (L, V) after every id but the last."""
    whole = np.array((lm.logits(one.ids[:-1]) if logits is None else logits).astype(mx.float32), np.float64)
    places = np.arange(one.start - 1, len(one.ids) - 1)
    rows, targets = whole[places], np.array(one.ids[one.start :], int)
    if not len(targets):
        return EndingScore(0.0, True)
    most = rows.max(axis=-1)
    logs = rows[range(len(rows)), targets] - most - np.log(np.exp(rows - most[:, None]).sum(axis=-1))
    return EndingScore(float(logs.sum()), bool((rows.argmax(axis=-1) == targets).all()))


def check(found: Sequence[EndingScore], wanted: Sequence[EndingScore], most: float = 1e-4) -> None:
    """Asserts that scores are equal, log-probabilities to 1e-4."""
    assert [one.is_greedy for one in found] == [one.is_greedy for one in wanted]
    assert np.abs(np.array([one.logprob for one in found]) - [one.logprob for one in wanted]).max() <= most


class Question:
    """What lm-eval asks, an Instance."""

    def __init__(self, *args: Any) -> None:
        self.args = args
