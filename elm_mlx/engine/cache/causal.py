"""Which positions each of some new queries reads, where each reads all before it and its own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from elm_mlx.engine.cache.attention import is_spelled_out, made_mask

FEW = 8  # queries, up to which Metal's attention has a kernel of its own, that skips what a mask of booleans hides


class CausalMasks:
    """The masks of one cache. All of its layers share it, so that the mask of a few queries is made once for a pass of
    the model: without that, MLX's CPU backend makes it in every layer, which takes as long as the attention."""

    def __init__(self) -> None:
        self._last: tuple[tuple[int, int, mx.Dtype], mx.array] | None = None  # what the last mask was for, and the mask

    def of(self, queries: int, positions: int, dtype: mx.Dtype) -> mx.array | str | None:
        """The mask of the last `queries` of so many positions, as `attention` takes it of queries of this type,
        [1, 1, L, S]; None for one query, which reads all; for many "causal", which MLX knows, unless attention is
        spelled out here, which would make that mask in every layer."""
        if queries == 1:
            return None
        return "causal" if queries > FEW and not is_spelled_out(dtype) else self.of_few(queries, positions, dtype)

    def of_few(self, queries: int, positions: int, dtype: mx.Dtype = mx.bool_) -> mx.array:
        """The mask of a few queries, [1, 1, L, S]; without a type in booleans."""
        asked = queries, positions, dtype
        if not self._last or self._last[0] != asked:
            mask = np.tri(queries, positions, positions - queries, dtype=np.bool_)
            self._last = asked, made_mask(mask[None, None], dtype)
        return self._last[1]
