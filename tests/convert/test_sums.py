"""Matrices with sums within them are read a few rows at a time, and are what the formulas say."""

from __future__ import annotations

import mlx.core as mx
import pytest

from elm_mlx.convert.sums import adapt
from elm_mlx.convert.tensor import LazyTensor, RowReader
from elm_mlx.models.lora import LowRank

W = mx.random.normal((70, 24), key=mx.random.key(0))


class Rows:
    """A reader that notes which rows are read."""

    def __init__(self) -> None:
        self.read: list[slice] = []

    def __call__(self) -> mx.array:
        return W

    def rows(self, rows: slice) -> mx.array:
        self.read.append(rows)
        return W[rows]


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_rows_alone_are_those_of_the_whole(dora: bool) -> None:
    keys = mx.random.split(mx.random.key(1), 3)
    one = LowRank(mx.random.normal((24, 3), key=keys[0]), mx.random.normal((3, 70), key=keys[1]),
                  mx.random.uniform(shape=(70,), key=keys[2]) if dora else None)  # fmt: skip
    expected = W + (one.a @ one.b).T
    if one.m is not None:
        expected = expected / mx.linalg.norm(expected, axis=1, keepdims=True) * one.m[:, None]
    reader = Rows()
    tensor = adapt(LazyTensor((70, 24), mx.float32, reader), lambda: one)
    assert isinstance(tensor.read, RowReader)
    assert mx.allclose(mx.concatenate([*tensor.blocks(32)]), expected, atol=1e-5)
    assert reader.read == [slice(0, 32), slice(32, 64), slice(64, 96)]
    whole = adapt(LazyTensor((70, 24), mx.float32, lambda: W), lambda: one)  # which cannot read rows alone
    assert not isinstance(whole.read, RowReader)
    assert mx.allclose(mx.concatenate([*whole.blocks(32)]), expected, atol=1e-5)
