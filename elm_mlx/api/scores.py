"""How well a model predicts given ids, and how far another model's predictions are from its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from elm_mlx.device.backend import mx
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.prefill import rounds
from elm_mlx.errors import NotFinite

POSITIONS = 64  # whose logits are in memory at a time: [64, V]


@dataclass(frozen=True)
class Scores:
    """One figure for each of L ids but the first, in float32, arrays of shape [L - 1].

    `losses` are minus the log-probabilities, in nats. Beside another model, `divergences` are KL(other || this) of the
    two predictions in nats, `same` says whether both find the same id the likeliest, and `other_losses` are its losses.
    """

    losses: np.ndarray
    divergences: np.ndarray | None = None
    same: np.ndarray | None = None
    other_losses: np.ndarray | None = None

    def last(self, count: int) -> Scores:
        """The scores of the last `count` ids alone."""
        start = len(self.losses) - count
        told = (None if row is None else row[start:] for row in (self.divergences, self.same, self.other_losses))
        return Scores(self.losses[start:], *told)


def scores_of(
    engine: Engine,
    ids: Sequence[int],
    adapter: int | None,
    other: Engine | None = None,
    kind: CacheKind = PLAIN,
) -> Scores:
    """The scores of ids by the model of an engine with an adapter (None: without) and caches of a kind, beside the
    plain one of `other`, whose caches are plain. Raises InvalidRequest where the adapter was unloaded, and
    NotFinite."""
    engine.variants.check(adapter)
    tokens = mx.array([ids])
    states = [states_of(engine, tokens, adapter, kind)] + ([states_of(other, tokens, None)] if other else [])
    models = [engine.variants.of(adapter)] + ([other.variants.plain] if other else [])
    rows = []
    for start in range(0, len(ids) - 1, POSITIONS):
        here = slice(start, min(start + POSITIONS, len(ids) - 1))
        targets = tokens[0, here.start + 1 : here.stop + 1, None]  # [P, 1]
        logs = [log_softmax(model.head(state[here])) for model, state in zip(models, states, strict=True)]  # [P, V]
        rows.append(np.array(mx.stack(list(figures(logs, targets)))))
        refuse_nan(rows[-1])
    return Scores(*np.concatenate(rows, axis=1)) if rows else Scores(*np.empty((4 if other else 1, 0), np.float32))


def states_of(engine: Engine, tokens: mx.array, adapter: int | None, kind: CacheKind = PLAIN) -> mx.array:
    """The states after each of the ids [1, L], evaluated: [L, E]."""
    model, length = engine.variants.of(adapter), tokens.shape[1]
    cache = new_cache(model, engine.layers, length, reserve=length, kind=kind)
    states: list[mx.array] = []
    for chunks in rounds(length, engine.execution):  # chunk by chunk, as attention over all ids at once takes gigabytes
        for place, which in chunks:
            with place:
                states.append(model.hidden(tokens[:, which], cache)[0])
        mx.eval(states[-len(chunks) :])
    return mx.concatenate(states)


def refuse_nan(rows: np.ndarray) -> None:
    """Raises NotFinite where a figure is NaN, as all are that come from logits which are NaN or infinite."""
    if np.isnan(rows).any():
        raise NotFinite(
            "The model's logits are NaN or infinite for this text: its weights are damaged, or its sums are too large "
            "for the type that it computes in.",
            "Fetch it again, or convert it again, with {dtype=bfloat16} if it is float16.",
        )


def log_softmax(logits: mx.array) -> mx.array:
    """Log-probabilities [P, V] of logits [P, V], in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def figures(logs: Sequence[mx.array], targets: mx.array) -> Iterator[mx.array]:
    """The arrays of Scores, each [P], from log-probabilities [P, V] of one or two models and the ids [P, 1] to come."""
    losses = [-mx.take_along_axis(log, targets, axis=-1)[:, 0] for log in logs]
    yield losses[0]
    if len(logs) == 2:
        here, there = logs
        yield mx.maximum((mx.exp(there) * (there - here)).sum(axis=-1), 0.0)  # rounding alone can make it negative
        yield (mx.argmax(here, axis=-1) == mx.argmax(there, axis=-1)).astype(mx.float32)
        yield losses[1]
