"""Matrices with an adapter's sums within them, read from the disk a few rows at a time.

Sources: Hu et al. 2021, "LoRA": W + s B A. Liu et al. 2024, "DoRA": the rows of that, scaled to learned lengths m.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from elm_mlx.convert.tensor import LazyTensor, RowReader
from elm_mlx.models.lora import LowRank

ALL = slice(None)


@dataclass(frozen=True)
class WholeSum:
    """Reads a matrix and adds the sum that `read_sum` reads, in float32: [out, in]."""

    base: LazyTensor
    read_sum: Callable[[], LowRank]

    def __call__(self) -> mx.array:
        """Reads the whole matrix."""
        return with_sum(self.base.read(), self.read_sum(), ALL)


@dataclass(frozen=True)
class SumOfRows(WholeSum):
    """Reads a matrix [out, in], or some of its rows alone, and adds the sum that `read_sum` reads, in float32."""

    def rows(self, rows: slice) -> mx.array:
        """Reads these rows alone."""
        assert isinstance(self.base.read, RowReader)
        return with_sum(self.base.read.rows(rows), self.read_sum(), rows)


def with_sums(tensors: Mapping[str, LazyTensor], sums: Mapping[str, LowRank]) -> dict[str, LazyTensor]:
    """The tensors by name, those of adapted matrices with their sums. `sums` are named without `.weight`."""
    adapted = {name: sums.get(name.removesuffix(".weight")) for name in tensors}
    return {
        name: adapt(tensor, partial(same, one)) if (one := adapted[name]) else tensor
        for name, tensor in tensors.items()
    }


def same(one: LowRank) -> LowRank:
    """The sum itself, where it is in memory already."""
    return one


def adapt(base: LazyTensor, read_sum: Callable[[], LowRank]) -> LazyTensor:
    """A matrix with a sum within it, in float32."""
    reader = SumOfRows if isinstance(base.read, RowReader) else WholeSum
    return LazyTensor(base.shape, mx.float32, reader(base, read_sum))


def with_sum(weight: mx.array, one: LowRank, rows: slice) -> mx.array:
    """Some `rows` of a matrix with their part of the sum, in float32."""
    summed = weight.astype(mx.float32) + (one.a @ one.b[:, rows]).T
    if one.m is None:
        return summed
    return summed * (one.m[rows] / mx.linalg.norm(summed, axis=1))[:, None]
