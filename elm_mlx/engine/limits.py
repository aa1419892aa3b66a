"""How much an engine may take on."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kind import CacheKind

ROWS = 8  # sequences that decode together; chosen, not measured on a Mac
QUEUE = 1024  # requests that may wait


@dataclass(frozen=True)
class Limits:
    """`context`: the most positions of a sequence. `token_bytes`: the bytes that one position takes in the caches of
    all layers. `budget`: what all caches of the process may take. At most `rows` sequences are answered together, and
    at most `queue` requests wait for a place. With `reuse` keys and values of ended requests are kept for later ones
    that begin with the same ids. `head_dim` and `float_bits` are those of the caches: what quantized ones take follows
    from them. `held` says what the caches of a model that keeps its own take for so many positions."""

    context: int
    token_bytes: int
    budget: Budget
    rows: int = ROWS
    queue: int = QUEUE
    reuse: bool = True
    head_dim: int = 64
    float_bits: int = 16
    held: Callable[[int], int] | None = None

    def bytes_of(self, kind: CacheKind, positions: int) -> int:
        """The bytes that caches of this kind may come to take for so many positions."""
        if self.held:
            return self.held(positions)
        if kind.is_plain:
            return positions * self.token_bytes
        return kind.bytes_of(positions, self.token_bytes, self.head_dim, self.float_bits)

    def positions_in(self, kind: CacheKind, nbytes: int) -> int:
        """How many positions so many bytes hold in caches of this kind; with a window that they hold, any number."""
        if self.held:
            return max(0, bisect_right(range(self.context + 1), nbytes, key=self.held) - 1)
        if kind.window is not None and self.bytes_of(kind, sys.maxsize) <= nbytes:
            return sys.maxsize
        return nbytes // max(1, self.bytes_of(kind, 1))
