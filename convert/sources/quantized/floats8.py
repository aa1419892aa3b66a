"""Matrices of 8-bit floats (E4M3) times scales: by row, by tensor, or by block.

value[o, i] = scales[o // block rows, i // block columns] * number[o, i]. MLX's mxfp8 holds the same numbers with a
scale for 32 columns that is a power of two: where all scales of a matrix are such, it is kept number by number. So it
is with any scales by row or by tensor: the power of two in each becomes MLX's, the rest a float for the row, with
which elm-mlx multiplies the product. With other scales by block there is no form for it, and it is requantized to 8
bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import ROW_SCALES, Quantization
from elm_mlx.convert.packed import Packed
from elm_mlx.convert.sources.quantized.bits import rows_of
from elm_mlx.convert.sources.quantized.requantize import not_finite, requantized
from elm_mlx.convert.sources.safetensors_file import Float8Tensor
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.weights import row_blocks

MXFP8 = Quantization(8, 32, "mxfp8")
BY_ROWS = replace(MXFP8, rows=True)
EXPONENT_OF_ONE, MOST_EXPONENT = 127, 246  # of E8M0; 2^(246 - 127) * 448 still is a float32
NAN = 0x7F  # without the sign


@dataclass(frozen=True)
class Floats8:
    """A matrix [out, in]: `numbers`, and `scales` float32 [block rows, block columns], each of a `block` of
    (rows, columns)."""

    name: str
    numbers: LazyTensor
    scales: np.ndarray
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.numbers.shape[0], self.numbers.shape[1]

    def __call__(self) -> mx.array:
        """Reads all values, float32 [out, in]."""
        return mx.concatenate([self.rows(rows) for rows in row_blocks(self.shape)])

    def rows(self, rows: slice) -> mx.array:
        """Reads the values of these rows, float32 [n, in], rounded once."""
        return rows_of(self.numbers, rows) * self.spread(self.scales, rows, 1)

    def spread(self, scales: np.ndarray, rows: slice, step: int) -> mx.array:
        """What each block has, for these rows and every `step`-th column; of one column where it is for a whole row."""
        chosen = scales[np.arange(self.shape[0])[rows] // self.block[0]]
        if chosen.shape[1] > 1 or step > 1:
            chosen = chosen[:, np.arange(0, self.shape[1], step) // self.block[1]]
        return mx.array(chosen)

    def tensor(self, dtype: mx.Dtype) -> LazyTensor:
        """The matrix as plain float32; where it is kept in few bits, with floats in `dtype`."""
        return LazyTensor(self.shape, mx.float32, self, self.packed(dtype))

    def exponents(self) -> np.ndarray | None:
        """The scales as MLX has them in mxfp8, uint8; None where one is no power of two in its range."""
        mantissas, exponents = np.frexp(self.scales)
        stored = exponents + (EXPONENT_OF_ONE - 1)
        right = (mantissas == 0.5) & (stored >= 1) & (stored <= MOST_EXPONENT)
        return stored.astype(np.uint8) if right.all() else None

    def packed(self, dtype: mx.Dtype) -> Packed | None:
        """The matrix in 8 bits: number by number where there is a form for it, else requantized; None where no group
        size divides its rows. `dtype` is the type that scales and biases will be kept in."""
        is_by_row = self.block[1] >= self.shape[1]
        exponents = self.exponents()
        groups_fit = self.shape[1] % 32 == 0 and (self.block[1] % 32 == 0 or is_by_row)
        if groups_fit and isinstance(self.numbers.read, Float8Tensor):
            if exponents is not None:
                return Packed(MXFP8, partial(self.read_parts, self.numbers.read, exponents))
            if is_by_row and np.isfinite(self.scales).all():
                return Packed(BY_ROWS, partial(self.read_by_rows, self.numbers.read))
        return requantized(self.name, self.shape, self.rows, dtype)

    def read_parts(self, numbers: Float8Tensor, exponents: np.ndarray) -> dict[str, mx.array]:
        """The parts of the matrix in mxfp8. Raises NotFinite for a NaN among its numbers."""
        stored = numbers.stored()
        if bool(mx.any((stored & NAN) == NAN).item()):
            raise not_finite(self.name)
        return {"weight": stored.view(mx.uint32), "scales": self.spread(exponents, slice(None), 32)}

    def read_by_rows(self, numbers: Float8Tensor) -> dict[str, mx.array]:
        """The parts of the matrix in mxfp8, with a float for each row, from 1 to 2 without its sign: what is left of
        its scale beside a power of two. Raises NotFinite for a NaN among its numbers."""
        powers = np.clip(np.frexp(self.scales)[1] - 1, 1 - EXPONENT_OF_ONE, MOST_EXPONENT - EXPONENT_OF_ONE)
        rest = np.ldexp(self.scales.astype(np.float64), -powers).astype(np.float32)
        parts = self.read_parts(numbers, (powers + EXPONENT_OF_ONE).astype(np.uint8))
        return parts | {ROW_SCALES: self.spread(rest, slice(None), 1)[:, 0]}
