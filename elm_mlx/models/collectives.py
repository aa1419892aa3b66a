"""What the ranks of a model do together: sums, and states that go from one rank to another.

Every rank must do the same ones in the same order. MLX does those of a process one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.distributed.part import Part


class Collectives(Protocol):
    """The ranks that hold a model together, as one of them sees them, which is `rank`. Nothing is done before it is
    evaluated."""

    rank: int

    def sum(self, x: mx.array) -> mx.array:
        """The sum of all ranks' arrays of this shape."""
        ...

    def least(self, x: mx.array) -> mx.array:
        """The least of all ranks' numbers at each place of arrays of this shape."""
        ...

    def gather(self, x: mx.array) -> mx.array:
        """All ranks' arrays of this shape, [n, ...] -> [ranks * n, ...], in the order of ranks."""
        ...

    def send(self, x: mx.array, rank: int) -> mx.array:
        """Sends an array to another rank; gives the same array."""
        ...

    def receive(self, shape: Sequence[int], dtype: mx.Dtype, rank: int) -> mx.array:
        """The array of this shape and type that a rank sends."""
        ...


class MlxGroup:
    """The Collectives of MLX's own distributed group."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self.group, self.rank = group, group.rank()

    def sum(self, x: mx.array) -> mx.array:
        """The sum of all ranks' arrays of this shape."""
        return mx.distributed.all_sum(x, group=self.group)

    def least(self, x: mx.array) -> mx.array:
        """The least of all ranks' numbers at each place of arrays of this shape."""
        return mx.distributed.all_min(x, group=self.group)

    def gather(self, x: mx.array) -> mx.array:
        """All ranks' arrays of this shape, [n, ...] -> [ranks * n, ...]."""
        return mx.distributed.all_gather(x, group=self.group)

    def send(self, x: mx.array, rank: int) -> mx.array:
        """Sends an array to another rank; gives the same array."""
        return mx.distributed.send(x, rank, group=self.group)

    def receive(self, shape: Sequence[int], dtype: mx.Dtype, rank: int) -> mx.array:
        """The array of this shape and type that a rank sends."""
        return mx.distributed.recv(list(shape), dtype, rank, group=self.group)


def world(part: Part) -> MlxGroup:
    """MLX's distributed group of this process, which must be that of `part`: who starts the ranks makes it."""
    group = mx.distributed.init()
    if (group.rank(), group.size()) != (part.rank, part.ranks):
        raise ValueError(f"MLX's group has this process as rank {group.rank()} of {group.size()}, and not as {part}.")
    return MlxGroup(group)
