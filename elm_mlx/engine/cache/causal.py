"""Which positions each of some new queries reads, where each reads all before it and its own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from elm_mlx.engine.cache.attention import FEW, is_spelled_out, made_mask, repeats


class CausalMasks:
    """The masks of one cache. All of its layers share it, so that the mask of a few queries is made once for a pass of
    the model: without that, MLX's CPU backend makes it in every layer, which takes as long as the attention."""

    def __init__(self) -> None:
        self._last: tuple[tuple[int, int, int, mx.Dtype], mx.array] | None = None  # what it was for, and the mask

    def of(self, q: mx.array, keys: mx.array) -> mx.array | str | None:
        """The mask of queries [B, H, L, D], the last of the positions of keys [B, K, S, D], as `attention` takes it:
        [1, 1, L, S], or repeated for the heads that share a key head; None for one query, which reads all; for many
        "causal", which MLX knows, unless attention is spelled out here, which would make that mask in every layer."""
        L, S = q.shape[2], keys.shape[2]
        if L == 1:
            return None
        return "causal" if L > FEW and not is_spelled_out(q.dtype) else self.of_few(L, S, repeats(q, keys), q.dtype)

    def of_few(self, queries: int, positions: int, times: int = 1, dtype: mx.Dtype = mx.bool_) -> mx.array:
        """The mask of the last few positions, so many times over, [1, 1, times * L, S]; without a type in booleans."""
        asked = queries, positions, times, dtype
        if not self._last or self._last[0] != asked:
            mask = np.tile(np.tri(queries, positions, positions - queries, dtype=np.bool_), (times, 1))
            self._last = asked, made_mask(mask[None, None], dtype)
        return self._last[1]
