"""Caches of several rows, of any kinds, as the cache of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Protocol

import mlx.core as mx

from elm_mlx.engine.cache.layer import Layer


class Attends(Protocol):
    """One layer's keys and values of some rows, as a model's attention uses them (models.attention.CacheLayer)."""

    @property
    def offset(self) -> int | mx.array:
        """How many positions are held: a number, or [B], one number for each row."""
        ...

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v, and attends over all that is held."""
        ...


class Part(Protocol):
    """The cache of some neighbouring rows of a batch."""

    @property
    def layers(self) -> Sequence[Attends]:
        """The caches of all layers."""
        ...

    def begin(self) -> list[int]:
        """Gets ready for one step, and returns the position of the new id in each row."""
        ...

    def end(self) -> None:
        """Ends the step."""
        ...


class Alone:
    """The Part of one row that has caches of its own."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def begin(self) -> list[int]:
        """The position of the new id."""
        return [self.layers[0].offset]

    def end(self) -> None:
        """Nothing is left to do: the caches count positions as they are written."""


class Turn:
    """What one step sees of several parts: the `offset` of each row, [B], and where the rows of each part end."""

    def __init__(self) -> None:
        self.offset: int | mx.array = 0
        self.ends: list[int] = []


class Rows:
    """Several parts as one cache: the first rows of a batch belong to the first part, and so on.

    Products, norms and rotations take all rows at once; attention runs part by part, and the results are joined. One
    part alone is used as it is, which costs nothing.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.turn = Turn()
        # One row alone needs nothing before and after a step, and in its step every call of Python's counts.
        self.parts = () if len(parts) == 1 and isinstance(parts[0], Alone) else parts
        each = zip(*(part.layers for part in parts), strict=True)
        self.layers: Sequence[Attends] = (
            parts[0].layers if len(parts) == 1 else [RowsLayer(self.turn, layers) for layers in each]
        )

    def begin(self) -> None:
        """Gets every part ready for one step."""
        offsets = [part.begin() for part in self.parts]
        if len(self.parts) > 1:
            self.turn.ends = list(accumulate(map(len, offsets)))
            self.turn.offset = mx.array([*chain(*offsets)])

    def end(self) -> None:
        """Ends the step in every part."""
        for part in self.parts:
            part.end()


class RowsLayer:
    """One layer of Rows."""

    def __init__(self, turn: Turn, layers: Sequence[Attends]) -> None:
        self.turn, self.layers = turn, layers

    @property
    def offset(self) -> int | mx.array:
        """How many positions each row holds, [B]."""
        return self.turn.offset

    def split(self) -> list[tuple[slice, Attends]]:
        """Each part with its rows, for a model whose own classes compute a part at a time."""
        ends = self.turn.ends
        return [(slice(a, b), layer) for a, b, layer in zip([0, *ends], ends, self.layers, strict=False)]

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Lets each part attend for its own rows: q [B, H, 1, D], k and v [B, K, 1, D] -> [B, H, 1, D]."""
        return mx.concatenate([layer.attend(q[rows], k[rows], v[rows]) for rows, layer in self.split()])
