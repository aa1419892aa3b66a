"""What a training makes small, over the rows of one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import mlx.core as mx

from elm_mlx.models.model import Model
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.training import Targets


class Objective(Protocol):
    """The rows of a file, and what is to be made small of them."""

    TELLS: ClassVar[tuple[str, ...]]  # the names of the sums after that of the loss
    ROWS: ClassVar[int]  # how many rows of ids a row of data becomes

    @property
    def lengths(self) -> list[int]:
        """How many ids the model reads of each row."""
        ...

    def batch(self, rows: Sequence[int]) -> Targets:
        """Some rows, by their numbers, as arrays."""
        ...

    def tokens(self, rows: Sequence[int]) -> int:
        """How many ids of these rows are learned."""
        ...

    def sums(self, model: Model, batch: Any) -> tuple[mx.array, ...]:
        """The sum of a batch's losses, and the sums that TELLS names."""
        ...


class TokenObjective:
    """The cross-entropy of the ids that count, as a mean over them."""

    TELLS: ClassVar[tuple[str, ...]] = ()
    ROWS: ClassVar[int] = 1

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    @property
    def lengths(self) -> list[int]:
        """How many ids the model reads of each row."""
        return [one.length for one in self.examples]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Some rows as arrays."""
        return batch_of([self.examples[row] for row in rows])

    def tokens(self, rows: Sequence[int]) -> int:
        """How many ids of these rows are learned."""
        return sum(self.examples[row].targets for row in rows)

    def sums(self, model: Model, batch: Batch) -> tuple[mx.array, ...]:
        """The sum of a batch's losses."""
        return (summed_loss(model, batch.ids, batch.counts),)
