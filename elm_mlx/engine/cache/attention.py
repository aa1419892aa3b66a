"""MLX's fused attention over the keys and values that a cache holds as floats.

The query heads of one position that share a key head are given to it as several queries of that head. Metal launches
one kernel either way, which does the same work. Where MLX has no kernel it would repeat the keys for them, which takes
more nodes of the graph, and one small product for each of them. Where its exponentials are slow, too, attention of
2 to FEW positions, or with many scores, is spelled out.
"""

from __future__ import annotations

import sys

import mlx.core as mx
import numpy as np

from elm_mlx.device import exponential

# Positions, up to which Metal's attention has a kernel of its own, that skips what a mask of booleans hides; and up to
# which a mask is repeated where attention is spelled out, as it is small.
FEW = 8
MOST_QUERIES = 8  # of a head, which Metal's attention for few queries takes
MOST_KEYS = 4096  # from so many on, small chips divide the keys among threads, but only where heads share them
# Source of all three: MLX's backend/metal/scaled_dot_product_attention.cpp


def heads_and_queries(H: int, L: int, K: int, S: int) -> tuple[int, int]:
    """As how many heads, and queries of each, attention takes L queries of H heads over S keys of K heads."""
    shared = H // K
    return (K, shared) if L == 1 and shared <= min(MOST_QUERIES, S) and S < MOST_KEYS else (H, L)


def repeats(q: mx.array, keys: mx.array) -> int:
    """How often the mask of several positions repeats itself for the query heads that share a key head, as `attention`
    takes it of q [B, H, L, D] over keys [B, K, S, D]: once in an operation of MLX's own."""
    _, H, L, _ = q.shape
    return H // keys.shape[1] if L <= FEW and is_spelled_out(q.dtype) else 1


def attention(q: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    """Attention of q [B, H, L, D] over keys and values [B, K, S, D] -> [B, H, L, D]. The mask is "causal", or
    [B, heads, queries, S] as `heads_and_queries` gives them, or of L queries, perhaps as often as `repeats` says: true
    where a query reads a key, or what is added to scores. None lets all read all."""
    B, H, L, D = q.shape
    if is_spelled_out(q.dtype) and (1 < L <= FEW or exponential.is_slow(q.dtype, B * H * L * keys.shape[2])):
        return spelled_out(q, keys, values, mask)
    form = heads_and_queries(H, L, keys.shape[1], keys.shape[2])
    mixed = mx.fast.scaled_dot_product_attention(q.reshape(B, *form, D), keys, values, scale=D**-0.5, mask=mask)
    return mixed.reshape(q.shape)


def spelled_out(q: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None) -> mx.array:
    """What `attention` computes, in plain operations, the query heads that share a key head in one product."""
    B, _, L, D = q.shape
    K, S = keys.shape[1:3]
    scores = q.reshape(B, K, -1, D) @ keys.swapaxes(2, 3)  # [B, K, H/K * L, S]
    if mask is not None:
        scores = masked(scores, as_added(causal(L, S) if isinstance(mask, str) else mask), L)
    if exponential.is_slow(scores.dtype, scores.size):
        powers = exponential.softmax_powers(scores, D**-0.5)
        mixed = powers @ values / powers.sum(axis=-1, keepdims=True)  # [B, K, H/K * L, D]
    else:
        mixed = mx.softmax(scores * D**-0.5, axis=-1) @ values
    return mixed.reshape(q.shape)


def masked(scores: mx.array, added: mx.array, L: int) -> mx.array:
    """Scores [B, K, H/K * L, S] with what a mask adds to those of L positions, [B, heads, queries, S] as `attention`
    takes it; one of 1 head is for all."""
    B, K, queries, S = scores.shape
    if added.shape[2] == queries:
        return scores + added
    if L == 1:  # a row for each query head, or one for all of them
        return scores + (added if added.shape[1] == 1 else added.reshape(scores.shape))
    return (scores.reshape(B, K, -1, L, S) + added[:, :, None]).reshape(scores.shape)


def as_added(mask: mx.array) -> mx.array:
    """A mask of booleans as one that is added to scores: 0 where a query reads a key, else -inf."""
    return mx.where(mask, 0.0, -mx.inf) if mask.dtype == mx.bool_ else mask


def causal(L: int, S: int) -> mx.array:
    """What the last L of S positions read, [1, 1, L, S]."""
    return (mx.arange(S) <= mx.arange(S - L, S)[:, None])[None, None]


def made_mask(readable: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """A mask for `attention`, made once for all layers: where a query of this type reads a key."""
    return as_added(mx.array(readable)) if is_spelled_out(dtype) else mx.array(readable)


def is_spelled_out(dtype: mx.Dtype) -> bool:
    """Whether attention of 2 to FEW positions, or with many scores, is spelled out here, for queries of this type."""
    return exponential.is_slow(dtype, sys.maxsize)
