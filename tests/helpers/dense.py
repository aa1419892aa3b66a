"""The plain twins of all kinds of cache: one pass over all ids, in which attention sees what the kind would show."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

import elm_mlx
from elm_mlx.engine.cache.kind import CacheKind, group_size


class DenseLayer:
    """Attention over all given positions, with the mask of a window, over keys and values that were quantized."""

    offset = 0

    def __init__(self, kind: CacheKind) -> None:
        self.kind = kind

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """q [B, H, L, D], k and v [B, K, L, D] -> [B, H, L, D], with softmax written out."""
        k, v = rounded(k, self.kind.key_bits), rounded(v, self.kind.value_bits)
        k, v = (mx.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        scores = (q * q.shape[3] ** -0.5) @ k.swapaxes(2, 3)  # [B, H, L, L]
        rows, columns = np.indices(scores.shape[2:])
        window, reach = self.kind.window or 10**9, self.kind.reach or 10**9
        sinks = (columns < self.kind.sinks) & (rows < reach)
        seen = (columns <= rows) & ((columns > rows - window) | sinks)
        return mx.softmax(mx.where(mx.array(seen), scores, -np.inf), axis=-1) @ v


def rounded(x: mx.array, bits: int | None) -> mx.array:
    """Numbers [B, K, L, D] as they are after being stored in `bits`, in a head filled up with zeros to a multiple of
    32."""
    if bits is None:
        return x
    wide = mx.concatenate([x, mx.zeros((*x.shape[:3], -x.shape[3] % 32))], axis=3)
    size = group_size(wide.shape[3])
    return mx.dequantize(*mx.quantize(wide, size, bits), size, bits)[..., : x.shape[3]]  # type: ignore[misc, arg-type]


def dense_pass(lm: elm_mlx.LanguageModel, ids: list[int], kind: CacheKind) -> mx.array:
    """The logits (L, V) after every id, where keys and values were held in a cache of this kind."""
    return lm.model(mx.array([ids]), [DenseLayer(kind)] * lm.config.num_layers)[0]
