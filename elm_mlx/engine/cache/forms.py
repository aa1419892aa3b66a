"""In which form a cache stores keys and values: as floats, or quantized. A form attends over what it has stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.engine.cache.attention import attention
from elm_mlx.engine.cache.causal import CausalMasks
from elm_mlx.engine.cache.kind import CacheKind, group_size, padded
from elm_mlx.engine.cache.ring import Mask

FEW = 8  # queries that read the quantized numbers themselves; more of them read floats that are made for them


class Form(Protocol):
    """How keys and values become buffers [B, K, S, any], and how attention reads these."""

    def encode(self, k: mx.array, v: mx.array) -> list[mx.array]:
        """Keys and values [B, K, L, D] to what the buffers hold, each [B, K, L, any]."""
        ...

    def attend(self, q: mx.array, held: Sequence[mx.array], mask: Mask) -> mx.array:
        """Attention of q [B, H, L, D] over what is held, each [B, K, S, any] -> [B, H, L, D]."""
        ...


class Floats:
    """Keys and values as they come."""

    def encode(self, k: mx.array, v: mx.array) -> list[mx.array]:
        """The two themselves."""
        return [k, v]

    def attend(self, q: mx.array, held: Sequence[mx.array], mask: Mask) -> mx.array:
        """MLX's fused attention."""
        return attention(q, held[0], held[1], mask)


class Quantized:
    """Keys and values in few bits each, with a scale and a bias for each group: numbers, scales and biases of the keys,
    then those of the values. Heads whose size MLX cannot quantize are filled up with zeros."""

    def __init__(self, key_bits: int, value_bits: int) -> None:
        self.key_bits, self.value_bits = key_bits, value_bits
        self.masks = CausalMasks()

    def encode(self, k: mx.array, v: mx.array) -> list[mx.array]:
        """[B, K, L, D] twice -> six arrays [B, K, L, any]."""
        size = group_size(padded(k.shape[3]))
        return [*mx.quantize(widened(k), size, self.key_bits), *mx.quantize(widened(v), size, self.value_bits)]

    def attend(self, q: mx.array, held: Sequence[mx.array], mask: Mask) -> mx.array:
        """A few queries read the quantized numbers themselves. Many, as in a prompt, would have a large matrix of
        scores; for them the floats are restored, and MLX's fused attention needs no such matrix on a GPU."""
        return self._few(q, held, mask) if q.shape[2] <= FEW else self._many(q, held, mask)

    def _few(self, q: mx.array, held: Sequence[mx.array], mask: Mask) -> mx.array:
        """The query heads that share a key head become rows of one product, so that no key is repeated for them."""
        B, H, L, D = q.shape
        K, S = held[0].shape[1:3]
        size = group_size(padded(D))
        rows = widened(q * D**-0.5).reshape(B, K, H // K * L, -1)  # [B, K, H/K * L, D]
        keys, values = (held[0], held[1], held[2]), (held[3], held[4], held[5])
        scores = mx.quantized_matmul(rows, *keys, True, size, self.key_bits)
        if mask is not None:
            readable = self.masks.of_few(L, S) if isinstance(mask, str) else mask
            by_query = scores.reshape(B, K, H // K, L, S)
            scores = mx.where(readable, by_query, lowest(scores.dtype)).reshape(B, K, H // K * L, S)
        weights = mx.softmax(scores, axis=-1, precise=True)
        mixed = mx.quantized_matmul(weights, *values, False, size, self.value_bits)
        return mixed[..., :D].reshape(B, H, L, D)

    def _many(self, q: mx.array, held: Sequence[mx.array], mask: Mask) -> mx.array:
        D = q.shape[3]
        size = group_size(padded(D))
        keys = mx.dequantize(held[0], held[1], held[2], size, self.key_bits)[..., :D]
        values = mx.dequantize(held[3], held[4], held[5], size, self.value_bits)[..., :D]
        return attention(q, keys, values, mask)


def widened(x: mx.array) -> mx.array:
    """[..., D] -> [..., padded(D)], filled up with zeros."""
    missing = padded(x.shape[-1]) - x.shape[-1]
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def lowest(dtype: mx.Dtype) -> mx.array:
    """The lowest number of a type, which softmax makes 0."""
    return mx.array(mx.finfo(dtype).min, dtype)


def form_of(kind: CacheKind) -> Form:
    """The form that a kind of cache asks for."""
    if kind.key_bits is None or kind.value_bits is None:
        return Floats()
    return Quantized(kind.key_bits, kind.value_bits)
