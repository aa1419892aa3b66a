"""Matrices of a model, as they are stored: they multiply activations, and look up the rows of an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.config.quantization import Quantization


class Product(Protocol):
    """A matrix, or several side by side, that activations are multiplied with."""

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out]."""
        ...


class Matrix(Product, Protocol):
    """Rows [out, in] that multiply activations, or that ids look up (an embedding)."""

    def rows(self, ids: mx.array) -> mx.array:
        """Looks up the rows of `ids`: [B, L] -> [B, L, in]."""
        ...


class Linear:
    """A matrix of floats, given as rows [out, in].

    Only its columns are kept, a view of the same memory: made anew, the view would be one more operation of every
    product in every step.
    """

    def __init__(self, weight: mx.array) -> None:
        self.columns = weight.T  # [in, out]

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.columns  # [..., in] -> [..., out]

    def rows(self, ids: mx.array) -> mx.array:
        """Looks up the rows of `ids`: [B, L] -> [B, L, in]."""
        return self.columns.T[ids]


class QuantizedLinear:
    """A matrix [out, in] in few bits: each group of columns in a row shares a scale (and, in affine mode, a bias)."""

    def __init__(self, arrays: Sequence[mx.array], setting: Quantization, dtype: mx.Dtype) -> None:
        self.weight, self.scales, *biases = arrays
        self.biases = biases[0] if biases else None
        self.setting, self.dtype = setting, dtype

    def __call__(self, x: mx.array) -> mx.array:
        q = self.setting
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, True, q.group_size, q.bits, q.mode
        )  # [..., in] -> [..., out]

    def rows(self, ids: mx.array) -> mx.array:
        """Looks up the rows of `ids` and expands them: [B, L] -> [B, L, in]."""
        q, biases = self.setting, None if self.biases is None else self.biases[ids]
        return mx.dequantize(self.weight[ids], self.scales[ids], biases, q.group_size, q.bits, q.mode, dtype=self.dtype)


class ScaledLinear(QuantizedLinear):
    """A QuantizedLinear whose rows are multiplied each with a float32 of its own: FP8 checkpoints have such scales by
    row, and MLX's mxfp8 holds their numbers. `arrays` are the words, the scales, and those of the rows [out]."""

    def __init__(self, arrays: Sequence[mx.array], setting: Quantization, dtype: mx.Dtype) -> None:
        *words, self.row_scales = arrays
        super().__init__(words, setting, dtype)

    def __call__(self, x: mx.array) -> mx.array:
        product = super().__call__(x)
        return (product * self.row_scales).astype(product.dtype)  # [..., in] -> [..., out]

    def rows(self, ids: mx.array) -> mx.array:
        """Looks up the rows of `ids` and expands them: [B, L] -> [B, L, in]."""
        return (super().rows(ids) * self.row_scales[ids][..., None]).astype(self.dtype)


class SideBySide:
    """The product of one input with several matrices, joined: for matrices that are stored differently, so that
    they cannot become one matrix."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self.matrices = matrices

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate([matrix(x) for matrix in self.matrices], axis=-1)
