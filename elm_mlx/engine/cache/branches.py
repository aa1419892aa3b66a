"""Several continuations of one text, read in one pass over the keys and values that are held of the text."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from elm_mlx.engine.cache.attention import attention
from elm_mlx.engine.cache.kv import KVCache


class BranchLayer:
    """One layer's cache of B rows that all begin with what one cache of one row holds, a models.attention.CacheLayer.
    Nothing is written: the rows are read once, and the cache stays as it is."""

    def __init__(self, trunk: KVCache) -> None:
        self.trunk, self.offset = trunk, trunk.offset

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Attends causally over what the trunk holds and the new k and v [B, K, L, D]: q [B, H, L, D] ->
        [B, H, L, D]."""
        keys, values = (after(held, new, self.offset) for held, new in zip(self.trunk.arrays(), (k, v), strict=True))
        return attention(q, keys, values, self.trunk.masks.of(q, keys))


def after(held: mx.array, new: mx.array, length: int) -> mx.array:
    """The first `length` positions of one row [1, K, any, D] before each row of `new` [B, K, L, D]:
    [B, K, length + L, D]."""
    first = mx.broadcast_to(held[:, :, :length], (new.shape[0], new.shape[1], length, new.shape[3]))
    return mx.concatenate([first, new], axis=2)


def branches(trunk: Sequence[KVCache]) -> list[BranchLayer]:
    """The cache of rows that begin with what `trunk` holds, for one pass of a model."""
    return [BranchLayer(layer) for layer in trunk]
