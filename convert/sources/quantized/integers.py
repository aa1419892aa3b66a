"""Matrices of whole numbers times scales: what GPTQ, AWQ and compressed-tensors store, each in its own order of bits.

value[o, i] = scales[o, g] * (numbers[o, i] - zeros[o, g]), where g is the group of column i. That is MLX's affine form
with biases of -scales * zeros, so a matrix whose groups lie side by side is kept number by number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import numpy as np

from elm_mlx.config.quantization import QUANTIZATION_MODES, Quantization
from elm_mlx.convert.packed import Packed
from elm_mlx.convert.sources.quantized.bits import numbers_of, pack_words
from elm_mlx.convert.sources.quantized.requantize import check_floats, requantized
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.store.weights import row_blocks

Rows = slice | np.ndarray
"""Rows of a matrix: a slice, or their indices [n]."""

Reader = Callable[[Rows], mx.array]


@dataclass(frozen=True)
class Integers:
    """A matrix [out, in] of numbers of `bits` bits. The readers take rows, and give `words` uint32 [n, in * bits / 32]
    as MLX packs them, `scales` and `zeros` float32 [n, groups].

    `group_size` columns that lie side by side share a scale; but where `order` is given, int [in], the groups of its
    columns are those that it names, and `group_size` does not count.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    group_size: int
    words: Reader
    scales: Reader
    zeros: Reader
    order: np.ndarray | None = None

    def __call__(self) -> mx.array:
        """Reads all values, float32 [out, in]."""
        return mx.concatenate([self.rows(rows) for rows in row_blocks(self.shape)])

    def rows(self, rows: Rows) -> mx.array:
        """Reads the values of these rows, float32 [n, in]: with scales of 16 bits exact, else rounded once."""
        numbers = numbers_of(self.words(rows), self.bits)
        return (numbers - self.spread(self.zeros(rows))) * self.spread(self.scales(rows))

    def spread(self, groups: mx.array) -> mx.array:
        """What each group [n, groups] has, for each of its columns: [n, in]."""
        if self.order is not None:
            return mx.take(groups, mx.array(self.order), axis=1)
        return mx.repeat(groups, self.group_size, axis=1)[:, : self.shape[1]]

    def tensor(self, dtype: mx.Dtype) -> LazyTensor:
        """The matrix as plain float32; where it is kept in few bits, with floats in `dtype`."""
        return LazyTensor(self.shape, mx.float32, self, self.packed(dtype))

    @property
    def setting(self) -> Quantization | None:
        """MLX's form that holds the same numbers, in groups as large as it has them; None where there is none."""
        bits, sizes = QUANTIZATION_MODES["affine"]
        fits = [size for size in sizes if self.group_size % size == 0 and self.shape[1] % size == 0]
        return Quantization(self.bits, max(fits)) if fits and self.order is None and self.bits in bits else None

    def packed(self, dtype: mx.Dtype) -> Packed | None:
        """The matrix in few bits: number by number where MLX has the form, else requantized to 8 bits; None where it
        has neither. `dtype` is the type that its floats will be kept in."""
        if setting := self.setting:
            return Packed(setting, partial(self.read_parts, setting, dtype))
        return requantized(self.name, self.shape, self.rows, dtype)

    def read_parts(self, setting: Quantization, dtype: mx.Dtype) -> dict[str, mx.array]:
        """The parts of the matrix in its own numbers; scales and biases in float32, not rounded yet."""
        all_rows = slice(None)
        scales = self.scales(all_rows)
        scales, biases = (self.narrowed(each, setting) for each in (scales, -scales * self.zeros(all_rows)))
        check_floats(self.name, dtype, scales, biases)
        return {"weight": mx.concatenate(list(self.word_blocks())), "scales": scales, "biases": biases}

    def word_blocks(self) -> Iterator[mx.array]:
        """The words block by block, each computed before the next one is read."""
        for rows in row_blocks(self.shape):
            words = self.words(rows)
            mx.eval(words)
            yield words

    def narrowed(self, groups: mx.array, setting: Quantization) -> mx.array:
        """What each group has, for each of the smaller groups that MLX keeps it in."""
        count = self.shape[1] // setting.group_size
        return mx.repeat(groups, self.group_size // setting.group_size, axis=1)[:, :count]

    def in_row_order(self, order: np.ndarray) -> Integers:
        """The matrix whose row i is this one's row order[i]."""

        def reordered(read: Reader) -> Reader:
            return lambda rows: read(order[rows])

        words, scales, zeros = map(reordered, (self.words, self.scales, self.zeros))
        return replace(self, words=words, scales=scales, zeros=zeros)

    def in_column_order(self, order: np.ndarray, group_size: int) -> Integers:
        """The matrix whose column i is this one's column order[i], if that puts the groups side by side."""

        def words(rows: Rows) -> mx.array:
            codes = numbers_of(self.words(rows), self.bits).astype(mx.uint32)
            return pack_words(codes[:, mx.array(order)], self.bits)

        return replace(self, words=words, group_size=group_size, order=None)
