"""Matrices of a source that MLX can keep in the few bits that they have there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from elm_mlx.config.quantization import Quantization


@dataclass(frozen=True)
class Packed:
    """A matrix in few bits: its own `setting`, without overrides, and `read`, which gives its arrays: "weight" (uint32
    [out, in * bits / 32]), "scales" ([out, in / group]) and, in affine mode, "biases" (as scales), of any floating
    type."""

    setting: Quantization
    read: Callable[[], dict[str, mx.array]]
