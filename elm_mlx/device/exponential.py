"""Exponentials by MLX's power, where its own exp is slow.

For x86-64, MLX's CPU backend (0.32.4) is built without vectors and without multiply-add: exp takes 9 ns a number and
sigmoid 14, most of it in calls of the C library, one for each term of a polynomial. Its power is one such call, 3 ns
(benchmarks/LOG.md).
"""

from __future__ import annotations

import math

import mlx.core as mx

from elm_mlx.device import has_slow_exp

LEAST = 2048  # numbers: for fewer of them, the operations that are more of the graph take as long as they save
DEEPEST = -80.0  # e^80 is a number in float32, and so is its gradient


def is_slow(dtype: mx.Dtype, numbers: int) -> bool:
    """Whether MLX's own exponentials of so many numbers take longer than powers. In 16 bits e itself would be too
    rough as a base."""
    return numbers >= LEAST and dtype == mx.float32 and has_slow_exp()


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x), elementwise, by powers."""
    return x / (1 + mx.power(1 / math.e, mx.maximum(x, DEEPEST)))


def softmax_powers(scores: mx.array, scale: float = 1.0) -> mx.array:
    """Powers [..., S] of which each row, divided by its sum, is softmax(scale * scores). A row needs one finite score;
    those of -inf become 0, faster than other low ones."""
    return mx.power(math.exp(scale), scores - scores.max(axis=-1, keepdims=True))
