"""Which positions each of some new queries reads, where each reads all before it and its own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

FEW = 8  # queries, up to which Metal's attention has a kernel of its own, that skips what a mask of booleans hides


class CausalMasks:
    """The masks of one cache. All of its layers share it, so that the mask of a few queries is made once for a pass of
    the model: without that, MLX's CPU backend makes it in every layer, which takes as long as the attention."""

    def __init__(self) -> None:
        self._last: tuple[tuple[int, int], mx.array] | None = None  # (queries, positions), and their mask

    def of(self, queries: int, positions: int) -> mx.array | str | None:
        """The mask of the last `queries` of so many positions, [1, 1, L, S]; None for one query, which reads all;
        "causal", which MLX knows, for many."""
        if queries == 1:
            return None
        if queries > FEW:
            return "causal"
        if not self._last or self._last[0] != (queries, positions):
            mask = np.tri(queries, positions, positions - queries, dtype=np.bool_)
            self._last = (queries, positions), mx.array(mask)[None, None]
        return self._last[1]
