"""Matrices that their source has in few bits, in a form that MLX can keep: they are copied, not quantized anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from elm_mlx.config.quantization import ROW_SCALES, Quantization


@dataclass(frozen=True)
class Packed:
    """A matrix [out, in] as it can be kept, with a `setting` of its own; `anew` where that has not the numbers of the
    source, which are quantized anew.

    `read()` brings it into memory: "weight", packed words [out, in * bits / 32] of uint32, "scales" [out, in /
    group_size] and, in affine mode, "biases" of the same shape, both in any floating type. In other modes "scales" are
    bytes. Where the setting has `rows` there are "row_scales" too, float32 [out]. `measure(dtype)` gives, where there
    is a quicker way to them than through all numbers, the sums of the squares of what a cast of scales and biases to
    `dtype` changes, and of the numbers.
    """

    setting: Quantization
    read: Callable[[], dict[str, mx.array]]
    anew: bool = False
    measure: Callable[[mx.Dtype], tuple[float, float]] | None = None

    def parts(self, name: str, dtype: mx.Dtype) -> dict[str, mx.array]:
        """The tensors that the matrix `name` is stored as, by their names, floats cast to `dtype`."""
        stem = name.removesuffix("weight")
        arrays = {f"{stem}{part}": array for part, array in self.read().items()}
        return {
            part: array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) and ROW_SCALES not in part else array
            for part, array in arrays.items()
        }
