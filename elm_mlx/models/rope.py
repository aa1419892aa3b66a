"""Rotary positions (RoPE): queries and keys are rotated by their position."""

from __future__ import annotations

import math

import mlx.core as mx

from elm_mlx.config import RopeConfig

Offset = int | mx.array  # the position of the first new token: one number, or [B], one for each row of a batch


class Rotation:
    """Rotates pairs half a head apart by their position (the Hugging Face layout, `traditional=False`)."""

    def __init__(self, rope: RopeConfig, head_dim: int) -> None:
        self.dims = head_dim
        self.base: float | None = None if rope.kind == "llama3" else rope.theta
        self.scale = 1 / rope.factor if rope.kind == "linear" else 1.0
        self.freqs = llama3_periods(rope, head_dim) if rope.kind == "llama3" else None

    def __call__(self, x: mx.array, offset: Offset) -> mx.array:
        """Queries or keys [B, heads, L, D] -> rotated ones, the first new token at position `offset`."""
        return mx.fast.rope(
            x, self.dims, traditional=False, base=self.base, scale=self.scale, offset=offset, freqs=self.freqs
        )


def llama3_periods(rope: RopeConfig, head_dim: int) -> mx.array:
    """1 / frequency of each pair, (D/2,) float32: slow pairs divided by `factor`, fast ones kept, a blend between.

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
