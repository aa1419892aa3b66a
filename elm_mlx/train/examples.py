"""What training sees of a row: its ids, and which of them count as targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Example:
    """The ids of one row of data. Id number i + 1 is a target, predicted from those before it, where `counts[i]` is
    true; so there is one entry fewer than ids."""

    ids: tuple[int, ...]
    counts: tuple[bool, ...]

    @property
    def targets(self) -> int:
        """How many ids count."""
        return sum(self.counts)

    @property
    def length(self) -> int:
        """How many ids the model reads."""
        return len(self.ids)

    @property
    def facts(self) -> list[Any]:
        """What makes it this example, as JSON has it."""
        return [self.ids, self.counts]

    def cut(self, length: int) -> Example:
        """The first `length` ids, and what counts among them."""
        return Example(self.ids[:length], self.counts[: length - 1])


@dataclass(frozen=True)
class Batch:
    """Rows of like length as arrays: `ids` [B, L], padded at their ends, `counts` [B, L - 1] of 0 and 1 in float32.
    Padding never counts. `targets` is the sum of `counts`, known without computing."""

    ids: mx.array
    counts: mx.array
    targets: int


def batch_of(examples: Sequence[Example], multiple: int = 1) -> Batch:
    """Rows as one batch. L is that of the longest row, rounded up to a multiple plus 1 (the model sees L - 1)."""
    longest = max(len(example.ids) for example in examples) - 1
    length = -(-longest // multiple) * multiple + 1
    ids, counts = np.zeros((len(examples), length), np.int32), np.zeros((len(examples), length - 1), np.float32)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        counts[row, : len(example.counts)] = example.counts
    return Batch(mx.array(ids), mx.array(counts), sum(example.targets for example in examples))
