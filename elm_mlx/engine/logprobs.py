"""Log-probabilities of the ids that are drawn, and of the likeliest ids beside them.

They are those of the model's own logits, in float32, before penalties, temperature and filters. They are computed with
the id and read with it, so that the host waits no further time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from elm_mlx.device.compile import compile_function

MOST_ALTERNATIVES = 20
SIGN, REST = 0x80000000, 0x7FFFFFFF  # of the bits of a float32; REST is also the highest id that a key has room for


class TokenLogprob(NamedTuple):
    """The natural logarithm of the probability that the model gave an id of the answer; and (id, log-probability) of
    the likeliest ids at its place, the likeliest first, and the lower id first of two that are as likely."""

    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


class Note(NamedTuple):
    """What was computed with the ids of a step for those who asked: `rows` has (row in the step, asker, how many
    alternatives).

    `chosen` [B, 1] are the logits of all ids that were drawn. `totals` [A, 1], the logarithms of the sums of
    exp(logit), and `keys` [A, n], the likeliest ids (`keys_of`), are those of the A rows that asked.
    """

    rows: list[tuple[int, Hashable, int]]
    chosen: mx.array
    totals: mx.array
    keys: mx.array | None

    def arrays(self) -> list[mx.array]:
        """What is computed on the device."""
        return [array for array in (self.chosen, self.totals, self.keys) if array is not None]

    def entries(self) -> Iterator[tuple[Any, TokenLogprob]]:
        """(asker, its entry) of every row that asked. The host waits for the step, and for nothing else: an operation
        here would wait for the next step, too, which the device has already."""
        chosen: Any = self.chosen.tolist()
        totals: Any = self.totals.tolist()
        keys: Any = [[]] * len(totals) if self.keys is None else self.keys.tolist()
        for (row, asker, most), (total,), likeliest in zip(self.rows, totals, keys, strict=True):
            pairs = [read_key(key) for key in sorted(likeliest, reverse=True)[:most]]
            yield asker, TokenLogprob(less(chosen[row][0], total), tuple((id, less(x, total)) for id, x in pairs))


class Noter:
    """Computes log-probabilities for the rows of a step that ask for them, all in one go."""

    def __init__(self, rows: Sequence[tuple[int, Hashable, int]], of: int, compiled: bool) -> None:
        """`rows` has (row in the step, asker, how many alternatives) of those that ask, among `of` rows."""
        self.rows = list(rows)
        self.most = max(most for _, _, most in rows)
        self.places = mx.array([row for row, _, _ in rows]) if len(rows) < of else None
        self.keys_of = COMPILED_KEYS if compiled else keys_of
        self.ids: mx.array | None = None  # those of the vocabulary, when its size is known

    def __call__(self, logits: mx.array, ids: mx.array) -> Note:
        """Logits [B, V] and the ids [B] that were drawn from them, perhaps after changes."""
        chosen = mx.take_along_axis(logits, ids[:, None], axis=-1)  # [B, 1]
        x = (logits if self.places is None else logits[self.places]).astype(mx.float32)  # [A, V]
        totals = mx.logsumexp(x, axis=-1, keepdims=True)
        if not self.most:
            return Note(self.rows, chosen, totals, None)
        if self.ids is None:
            self.ids = mx.arange(x.shape[-1], dtype=mx.int64)
        keys, most = self.keys_of(x, self.ids), min(self.most, x.shape[-1])
        return Note(self.rows, chosen, totals, mx.partition(keys, -most, axis=-1)[:, -most:])


def noter_for(asked: Sequence[tuple[Hashable, int | None]], compiled: bool = False) -> Noter | None:
    """The Noter for the rows of a step, each with (asker, how many alternatives), the latter None where the row asks
    for nothing. None where no row asks."""
    rows = [(row, asker, most) for row, (asker, most) in enumerate(asked) if most is not None]
    return Noter(rows, len(asked), compiled) if rows else None


def keys_of(logits: mx.array, ids: mx.array) -> mx.array:
    """Logits [A, V] in float32 of the ids [V] in int64 -> whole numbers [A, V] in int64, all different, in the order of
    the logits and, where these are equal, against that of the ids. `read_key` reads one.

    A float's bits, as a whole number, are in the order of the floats, but for the sign. Below them lies the id.
    """
    bits = logits.view(mx.int32)
    ordered = mx.where(bits < 0, -(bits & REST), bits)
    return ordered.astype(mx.int64) * 2**31 + (REST - ids)


COMPILED_KEYS = compile_function(keys_of)


def read_key(key: int) -> tuple[int, float]:
    """(id, logit) of a key."""
    ordered, id = key >> 31, REST - (key & REST)
    bits = ordered if ordered >= 0 else SIGN | -ordered
    return id, struct.unpack("f", struct.pack("I", bits))[0]


def less(logit: float, total: float) -> float:
    """The log-probability of a logit, in float32."""
    return float(np.float32(logit) - np.float32(total)) if math.isfinite(logit) else logit
