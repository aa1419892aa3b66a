"""One layer's cache of one row, as the engine handles it, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import mlx.core as mx


class Layer(Protocol):
    """Keys and values of one layer and one row: it attends, as models.attention.CacheLayer does, and can be shortened,
    copied and counted."""

    capacity: int

    @property
    def offset(self) -> int:
        """How many positions are held, those included that a window has forgotten."""
        ...

    @property
    def can_trim(self) -> int:
        """The most positions that can be trimmed now."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, with the room in them that is not filled yet."""
        ...

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v [B, K, L, D], and attends causally over all that is held: q [B, H, L, D] -> [B, H, L, D]."""
        ...

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions, or all if fewer are held, and returns how many it forgot. Raises
        CannotTrim for more than `can_trim`."""
        ...

    def resize(self, capacity: int, reserve: int = 0) -> None:
        """Lets the cache hold `capacity` positions; when its buffers next grow, they get room for `reserve`."""
        ...

    def fork(self, n: int, capacity: int | None = None, reserve: int = 0) -> Self:
        """A cache with buffers of its own, which hold the first `n` positions. Not evaluated."""
        ...

    @property
    def room(self) -> int:
        """How many columns the buffers have now, 1 at least."""
        ...

    def columns(self, positions: int) -> int:
        """How many columns the buffers have at most, where there are so many positions."""
        ...

    def arrays(self) -> list[mx.array]:
        """The buffers that exist, so that a caller can evaluate them."""
        ...


def can_shorten(cache: Sequence[Layer], length: int) -> bool:
    """Whether a cache of all layers can be trimmed to its first `length` positions."""
    return cache[0].offset - length <= cache[0].can_trim
