"""Matrices of a model: what multiplies activations, as it is stored, and what looks up the rows of an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.config.quantization import Quantization


class Product(Protocol):
    """A matrix of rows, or several side by side."""

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] -> [..., out]."""
        ...


class Matrix(Product, Protocol):
    """Rows [out, in] that multiply activations, or that ids look up (an embedding)."""

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of `ids`: [B, L] -> [B, L, in]."""
        ...


class Linear:
    """A matrix [out, in] of floats."""

    def __init__(self, weight: mx.array) -> None:
        self.weight = weight

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight.T  # [..., in] -> [..., out]

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of `ids`: [B, L] -> [B, L, in]."""
        return self.weight[ids]


class QuantizedLinear:
    """A matrix [out, in] in few bits, in which the columns of a row share a scale (and, affine, a bias) in groups."""

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
        """The rows of `ids`, expanded: [B, L] -> [B, L, in]."""
        q, biases = self.setting, None if self.biases is None else self.biases[ids]
        return mx.dequantize(self.weight[ids], self.scales[ids], biases, q.group_size, q.bits, q.mode, dtype=self.dtype)


class SideBySide:
    """The product of one input with several matrices, joined: for matrices whose storage differs, so that they cannot
    be one."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self.matrices = matrices

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate([matrix(x) for matrix in self.matrices], axis=-1)
