"""Rotary positions (RoPE): queries and keys are rotated by their position."""

from __future__ import annotations

import math
from functools import cached_property

import mlx.core as mx

from elm_mlx.config import RopeConfig
from elm_mlx.device import has_fast_kernels

Offset = int | mx.array  # the position of the first new token: one number, or [B], one for each row of a batch
Angles = tuple[mx.array, mx.array]  # cosines and sines of new tokens, [L, D] or [B, 1, L, D] each
Position = Offset | Angles  # what a rotation takes


class Rotation:
    """Rotates pairs half a head apart by their position (the Hugging Face layout, `traditional=False`)."""

    def __init__(self, rope: RopeConfig, head_dim: int) -> None:
        self.dims, self.theta = head_dim, rope.theta
        self.base: float | None = None if rope.kind == "llama3" else rope.theta
        self.scale = 1 / rope.factor if rope.kind == "linear" else 1.0
        self.freqs = llama3_periods(rope, head_dim) if rope.kind == "llama3" else None

    def __call__(self, x: mx.array, position: Position) -> mx.array:
        """Queries or keys [B, heads, L, D] -> rotated ones, the first new token at this position, or by its angles."""
        if isinstance(position, tuple):
            cosines, sines = position
            first, second = mx.split(x, 2, axis=-1)
            return (x * cosines + mx.concatenate([second, first], axis=-1) * sines).astype(x.dtype)
        return mx.fast.rope(
            x, self.dims, traditional=False, base=self.base, scale=self.scale, offset=position, freqs=self.freqs
        )

    def prepare(self, offset: Offset, count: int, dtype: mx.Dtype) -> Position:
        """What rotates `count` new tokens of each row in all layers: their angles where MLX would compute these anew in
        every layer, as it does without a kernel for it, else their offset. In 16 bits the kernel's work is left to
        MLX."""
        if dtype != mx.float32 or has_fast_kernels():
            return offset
        return self.angles(offset, count)

    def angles(self, offset: Offset, count: int) -> Angles:
        """Cosines and sines of `count` new tokens from `offset` on, the sines of the first half of a head negative."""
        first = offset[:, None] if isinstance(offset, mx.array) and offset.ndim else mx.array(offset)
        positions = (first + mx.arange(count)).astype(mx.float32) * self.scale  # [L] or [B, L]
        turned = positions[..., None] * self._turns  # [L, D] or [B, L, D]
        turned = turned[:, None] if turned.ndim == 3 else turned
        return mx.cos(turned), mx.sin(turned)

    @cached_property
    def _turns(self) -> mx.array:
        """How far each number of a head turns from one position to the next, [D], backwards in the first half."""
        if self.freqs is not None:
            turns = 1 / self.freqs
        else:
            half = self.dims // 2
            turns = mx.exp(mx.arange(0, -half, -1, mx.float32) * (math.log(self.theta) / half))  # as MLX, to the bit
        both = mx.concatenate([-turns, turns])
        mx.eval(both)
        return both


def llama3_periods(rope: RopeConfig, head_dim: int) -> mx.array:
    """1 / frequency of each pair, [D/2] float32: slow frequencies divided by `factor`, fast ones kept, others mixed.

    Source: transformers modeling_rope_utils `llama3`; llama-models models/llama3/model.py `apply_scaling`.
    """
    original, low, high = rope.original_context, rope.low_freq_factor, rope.high_freq_factor
    periods = []
    for i in range(0, head_dim, 2):
        frequency = rope.theta ** (-i / head_dim)
        turns = original * frequency / (2 * math.pi)  # how often the pair turns within the original context
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        periods.append(1 / ((1 - kept) * frequency / rope.factor + kept * frequency))
    return mx.array(periods, dtype=mx.float32)
