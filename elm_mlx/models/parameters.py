"""The named arrays of a checkpoint, given out once each as the vectors and matrices that a model is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import mlx.core as mx

from elm_mlx.config.quantization import ROW_SCALES, Quantization
from elm_mlx.models.matrices import Linear, Matrix, Product, QuantizedLinear, ScaledLinear, SideBySide


class Arrays(Protocol):
    """Arrays by name, that are taken out."""

    def __contains__(self, name: object, /) -> bool: ...

    def pop(self, name: str, /) -> mx.array:
        """Takes one out."""
        ...


class Parameters:
    """The named arrays a model is built from. Each is given out once; what remains at the end was not used.

    `dtype` is the type of the activations; floats are cast to it, so that no operation computes in a wider type.
    `ready` is called with the arrays of each parameter as it is given out, so that the loading code decides when
    they are evaluated. `linear` makes a Matrix of an array of floats.
    """

    def __init__(
        self,
        arrays: Arrays,
        quantization: Quantization | None,
        dtype: mx.Dtype,
        ready: Callable[..., None] = lambda *arrays: None,
        linear: Callable[[mx.array], Matrix] = Linear,
    ) -> None:
        self.arrays, self.quantization, self.dtype = arrays, quantization, dtype
        self.ready, self.linear_of = ready, linear

    def vector(self, name: str) -> mx.array:
        """Takes out a norm's weight, in the type of the activations."""
        vector = self._floats(self.arrays.pop(f"{name}.weight"))
        self.ready(vector)
        return vector

    def linear(self, name: str) -> Matrix:
        """Takes out a matrix as it is stored."""
        return self._matrix(*self._stored(name))

    def fuse(self, *names: str) -> Product:
        """Joins matrices that multiply one input into one product. Each row is quantized alone, so joining is exact."""
        stored = [self._stored(name) for name in names]
        if any(setting != stored[0][1] for _, setting in stored):
            return SideBySide([self._matrix(*one) for one in stored])
        joined = [mx.concatenate(list(column)) for column in zip(*(arrays for arrays, _ in stored), strict=True)]
        return self._matrix(joined, stored[0][1])

    def _stored(self, name: str) -> tuple[list[mx.array], Quantization | None]:
        """Takes out the arrays of one matrix, with their quantization, if they have one."""
        if f"{name}.scales" not in self.arrays or self.quantization is None:
            return [self._floats(self.arrays.pop(f"{name}.weight"))], None
        kinds = [kind for kind in ("weight", "scales", "biases") if f"{name}.{kind}" in self.arrays]
        arrays = [self._floats(self.arrays.pop(f"{name}.{kind}")) for kind in kinds]
        setting = self.quantization.setting(name)
        if setting and setting.rows:
            arrays.append(self.arrays.pop(f"{name}.{ROW_SCALES}"))  # float32, whatever the activations are
        return arrays, setting

    def _floats(self, array: mx.array) -> mx.array:
        """Casts floats to the model's type; packed words and 8-bit scales stay as they are."""
        return array.astype(self.dtype) if mx.issubdtype(array.dtype, mx.floating) else array

    def _matrix(self, arrays: list[mx.array], setting: Quantization | None) -> Matrix:
        self.ready(*arrays)
        if setting:
            return (ScaledLinear if setting.rows else QuantizedLinear)(arrays, setting, self.dtype)
        matrix = self.linear_of(*arrays)
        if isinstance(matrix, Linear):
            self.ready(matrix.columns)
        return matrix
