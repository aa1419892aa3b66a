"""Attention as a model sees it: a cache layer keeps keys and values, and attends over all that it holds.

Shapes: B batch, L new tokens, S cached positions, H query heads, K kv heads, D head dim, E model dim, F ffn dim,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.models.rope import Offset

QKV = tuple[mx.array, mx.array, mx.array]


class CacheLayer(Protocol):
    """One layer's keys and values, of all rows of a batch."""

    @property
    def offset(self) -> Offset:
        """How many positions are held: a number, or [B], one for each row."""
        ...

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v [B, K, L, D], and attends causally over all that is held: q [B, H, L, D] -> [B, H, L, D].

        Fewer queries than keys are those of the last positions.
        """
        ...


Cache = Sequence[CacheLayer]


class Uncached:
    """The layer of a model that runs without a cache: it attends over the given positions and keeps nothing."""

    offset: Offset = 0

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Causal attention: q [B, H, L, D], k and v [B, K, L, D] -> [B, H, L, D]."""
        mask = "causal" if q.shape[2] > 1 else None
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[3] ** -0.5, mask=mask)


def split_heads(x: mx.array, head_dim: int) -> mx.array:
    """[B, L, heads * D], or [B, heads * D] of one position -> [B, heads, L, D]."""
    B, *positions, width = x.shape
    heads = width // head_dim
    if not positions:
        return x.reshape(B, heads, 1, head_dim)
    return x.reshape(B, *positions, heads, head_dim).swapaxes(1, 2)


def join_heads(x: mx.array, shape: Sequence[int]) -> mx.array:
    """[B, heads, L, D] -> [B, L, heads * D], or [B, heads * D] where states of that `shape` have no axis L."""
    return (x if x.shape[2] == 1 else x.swapaxes(1, 2)).reshape(*shape[:-1], -1)
