"""Numbers of few bits in 32-bit words, as MLX packs them: those of a row follow one another, lowest bits first."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from elm_mlx.convert.sources.safetensors_file import MappedTensor
from elm_mlx.convert.tensor import LazyTensor, RowReader

UNIT = 32  # the smallest group of MLX: rows of numbers are multiples of it


def numbers_of(words: mx.array, bits: int) -> mx.array:
    """Words uint32 [n, c * bits / 32] to the numbers in them, float32 [n, c]; c is a multiple of 32."""
    groups = (len(words), words.shape[1] // bits)
    return mx.dequantize(words, mx.ones(groups), mx.zeros(groups), UNIT, bits)


def pack_words(numbers: mx.array, bits: int) -> mx.array:
    """Numbers uint32 [n, c] below 2^bits, with bits that divide 32, to words uint32 [n, c * bits / 32]."""
    shifts = mx.arange(0, 32, bits, dtype=mx.uint32)
    each = numbers.reshape(len(numbers), -1, len(shifts)) << shifts
    return each.sum(axis=-1)


def as_words(array: mx.array) -> mx.array:
    """The elements of an array of whole numbers as uint32 words, bit for bit; the last axis is packed."""
    return mx.contiguous(array).view(mx.uint32)


def columns_of(tensor: LazyTensor, columns: slice | np.ndarray) -> mx.array:
    """These columns of a matrix, each as a row; out of a memory map without the others."""
    if isinstance(tensor.read, MappedTensor):
        return tensor.read.columns(columns)
    chosen = columns if isinstance(columns, slice) else mx.array(columns)
    return mx.contiguous(tensor.read()[:, chosen].T)


def rows_of(tensor: LazyTensor, rows: slice | np.ndarray) -> mx.array:
    """These rows of a tensor, without the others where its reader can."""
    if isinstance(rows, slice):
        return tensor.read.rows(rows) if isinstance(tensor.read, RowReader) else tensor.read()[rows]
    return tensor.read()[mx.array(rows)]
