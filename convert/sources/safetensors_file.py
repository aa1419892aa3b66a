"""safetensors files to convert: rows are copied out of a memory map when they are read."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.config import Shape
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file.tensors import ELEMENTS, Element
from elm_mlx.files import reading
from elm_mlx.store.weights import Entry, read_places

STORED = {element.dtype: element for name, element in ELEMENTS.items() if name != "float64"}


@dataclass(frozen=True)
class MappedTensor:
    """Reads one tensor out of a memory map: `data` is its bytes, `element` the type of their elements."""

    data: memoryview
    element: Element
    shape: Shape

    def __call__(self) -> mx.array:
        """Copies all rows out of the map."""
        return self.rows(slice(None))

    def rows(self, rows: slice) -> mx.array:
        """Copies only these rows out of the map."""
        there = np.ndarray(self.shape, self.element.stored, self.data)
        array = mx.array(np.require(there[rows] if self.shape else there, requirements=["ALIGNED"]))
        dtype = self.element.dtype
        return array.view(dtype) if dtype == mx.bfloat16 else array.astype(dtype)

    def columns(self, columns: slice | np.ndarray) -> mx.array:
        """Copies these columns of a matrix out of the map, each as a row."""
        there = np.ndarray(self.shape, self.element.stored, self.data)
        array = mx.array(np.ascontiguousarray(there[:, columns].T))
        dtype = self.element.dtype
        return array.view(dtype) if dtype == mx.bfloat16 else array.astype(dtype)


@dataclass(frozen=True)
class Float8Tensor:
    """Reads one tensor of float8_e4m3fn as the float32 that its numbers are; `stored` reads its bytes."""

    stored: MappedTensor

    def __call__(self) -> mx.array:
        """Reads all rows."""
        return self.rows(slice(None))

    def rows(self, rows: slice) -> mx.array:
        """Reads only these rows."""
        return mx.from_fp8(self.stored.rows(rows), mx.float32)


def lazy_tensor(entry: Entry, data: memoryview) -> LazyTensor:
    """The tensor of an entry whose bytes are `data`. Exponents, E8M0, stay bytes."""
    mapped = MappedTensor(data, STORED[entry.dtype], entry.shape)
    if entry.float8 == "F8_E4M3":
        return LazyTensor(entry.shape, mx.float32, Float8Tensor(mapped))
    return LazyTensor(entry.shape, entry.dtype, mapped)


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file by name. The memory map lives as long as they do; meanwhile the file may be unlinked, not
    truncated.

    Raises NotFound, BadCheckpoint, Unsupported.
    """
    places = read_places(path, float8=True)
    with reading(path), path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return {name: lazy_tensor(entry, data[at : at + entry.nbytes]) for name, (at, entry) in places.items()}
