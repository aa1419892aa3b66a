"""MLX's fused attention over the keys and values that a cache holds as floats.

The query heads of one position that share a key head are given to it as several queries of that head. Metal launches
one kernel either way, which does the same work. Where MLX has no kernel it would repeat the keys for them, which takes
more nodes of the graph, and one small product for each of them.
"""

from __future__ import annotations

import mlx.core as mx

MOST_QUERIES = 8  # of a head, which Metal's attention for few queries takes
MOST_KEYS = 4096  # from so many on, small chips divide the keys among threads, but only where heads share them
# Source of both: MLX's backend/metal/scaled_dot_product_attention.cpp


def heads_and_queries(H: int, L: int, K: int, S: int) -> tuple[int, int]:
    """As how many heads, and queries of each, attention takes L queries of H heads over S keys of K heads."""
    shared = H // K
    return (K, shared) if L == 1 and shared <= min(MOST_QUERIES, S) and S < MOST_KEYS else (H, L)


def attention(q: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    """Attention of q [B, H, L, D] over keys and values [B, K, S, D] -> [B, H, L, D]. The mask is "causal", or true
    where a query reads a key, [B, heads, queries, S] as `heads_and_queries` gives them; None lets all read all."""
    B, H, L, D = q.shape
    form = heads_and_queries(H, L, keys.shape[1], keys.shape[2])
    mixed = mx.fast.scaled_dot_product_attention(q.reshape(B, *form, D), keys, values, scale=D**-0.5, mask=mask)
    return mixed.reshape(q.shape)
