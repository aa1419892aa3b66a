"""Caches of rows that get different numbers of new ids in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from elm_mlx.engine.cache.layer import Layer


class RaggedLayer:
    """One layer's caches of several rows, a models.attention.CacheLayer: row i gets L - `fills[i]` of L ids, as its
    first `fills[i]` ids only fill it up. What is computed of those goes nowhere: neither is it cached, nor does any
    other position attend to it.

    `offset` [B] is the position of each row's first id, below 0 where that is one that fills it up.
    """

    def __init__(self, layers: Sequence[Layer], fills: Sequence[int], offset: mx.array) -> None:
        self.layers, self.fills, self.offset = layers, fills, offset

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends what is a row's own of k and v [B, K, L, D] to its cache, which attends: q [B, H, L, D], or those of
        the last positions alone, -> the same shape, with zeros where a row is filled up."""
        unasked = k.shape[2] - q.shape[2]
        rows = []
        for row, (layer, fill) in enumerate(zip(self.layers, self.fills, strict=True)):
            one, empty = slice(row, row + 1), max(0, fill - unasked)
            mixed = layer.attend(q[one, :, empty:], k[one, :, fill:], v[one, :, fill:])
            rows.append(mx.pad(mixed, [(0, 0), (0, 0), (empty, 0), (0, 0)]) if empty else mixed)
        return mx.concatenate(rows)


def ragged(caches: Sequence[Sequence[Layer]], news: Sequence[int]) -> list[RaggedLayer]:
    """The cache of rows of which each has its own, and gets so many new ids."""
    fills = [max(news) - count for count in news]
    offset = mx.array([cache[0].offset - fill for cache, fill in zip(caches, fills, strict=True)])
    return [RaggedLayer(layers, fills, offset) for layers in zip(*caches, strict=True)]
