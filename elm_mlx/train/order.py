"""In which order rows are learned: each once an epoch, with rows of like length, in an order drawn from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from elm_mlx.seeds import seed_of


def epoch_order(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch as lists of row numbers: every row in exactly one of them, `size` rows in each but one.

    Rows are shuffled and then sorted by length, so that equal ones change places between epochs and little of a batch
    is padding; then the batches are shuffled.
    """
    random = np.random.default_rng(seed_of(seed, f"order of epoch {epoch}"))
    rows = random.permutation(len(lengths))
    rows = rows[np.argsort(np.asarray(lengths)[rows], kind="stable")]
    batches = [rows[begin : begin + size].tolist() for begin in range(0, len(rows), size)]
    return [batches[place] for place in random.permutation(len(batches))]


class Order:
    """Which rows each step learns from: `accumulate` batches of `size` rows a step, and what an epoch has left in its
    last one. A step's rows depend on its number alone, so a training can go on anywhere."""

    def __init__(self, lengths: Sequence[int], size: int, accumulate: int, seed: int) -> None:
        self._batches = lru_cache(maxsize=1)(lambda epoch: epoch_order(lengths, size, seed, epoch))
        self._accumulate = accumulate
        batches = -(-len(lengths) // size)
        self.steps_an_epoch = -(-batches // accumulate)

    def rows(self, step: int) -> list[list[int]]:
        """The batches of a step (from 0), each a list of row numbers."""
        epoch, place = divmod(step, self.steps_an_epoch)
        begin = place * self._accumulate
        return self._batches(epoch)[begin : begin + self._accumulate]
