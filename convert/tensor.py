"""A tensor that is still on disk: what every reader yields and the pipeline consumes, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import mlx.core as mx

from elm_mlx.convert.packed import Packed
from elm_mlx.store.weights import row_blocks


@runtime_checkable
class RowReader(Protocol):
    """A `read` of a LazyTensor that can also read some rows alone."""

    def __call__(self) -> mx.array:
        """Reads the whole tensor."""

    def rows(self, rows: slice) -> mx.array:
        """Reads these rows alone, row-major."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and type are known; `read()` brings the elements into memory, row-major, in `dtype`.

    A matrix that the source has in few bits is `packed` where MLX can keep it so; `read()` gives its plain numbers.
    """

    shape: tuple[int, ...]
    dtype: mx.Dtype
    read: Callable[[], mx.array]
    packed: Packed | None = None

    def blocks(self, rows: int | None = None) -> Iterator[mx.array]:
        """The rows in blocks of so many, by default of a few million elements: each read alone by a RowReader, else cut
        from the whole."""
        slices = row_blocks(self.shape)
        if rows:
            slices = [slice(begin, begin + rows) for begin in range(0, self.shape[0], rows)]
        if isinstance(self.read, RowReader):
            yield from map(self.read.rows, slices)
        else:
            whole = self.read()
            yield from (whole[each] for each in slices)
