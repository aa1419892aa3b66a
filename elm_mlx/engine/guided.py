"""The rows of a step of which some have a constraint: their masks, asked for while the device computes the logits."""

from __future__ import annotations

from collections.abc import Sequence as List

import mlx.core as mx
import numpy as np

from elm_mlx.engine.guide import FREE
from elm_mlx.engine.masks import restrict
from elm_mlx.engine.sequence import ERROR, Sequence
from elm_mlx.errors import ElmError


class GuidedRows:
    """The rows of a batch in their order, None for a free slot. Those without a constraint have masks that allow all:
    one kernel for all rows is less than taking some out and putting them back."""

    def __init__(self, rows: List[Sequence | None]) -> None:
        self.places = [(place, one) for place, one in enumerate(rows) if one and one.guide]
        self.count, self.compiled = len(rows), any(one.sampler.compiled for _, one in self.places)
        self.words = np.zeros((0, 0), np.uint32)  # [B, ceil(V / 32)], as soon as a constraint has given a mask

    def restrict(self, logits: mx.array) -> tuple[mx.array, list[Sequence]]:
        """Logits [B, V] -> logits [B, V] with minus infinity where a row's constraint forbids an id, and the rows that
        ended since their constraints failed. All ids before must be read. The host waits for nothing."""
        ended, going = [], False
        for place, one in self.places:
            if one.guide and not one.finish:
                try:
                    self._set(place, one.guide.next())
                    going = True
                    continue
                except ElmError as error:  # its own: others go on
                    one.end(ERROR, error)
                    ended.append(one)
            self._free(place)
        return (restrict(logits, self.words, self.compiled) if going else logits), ended

    def _set(self, place: int, words: np.ndarray) -> None:
        """Gives a row its mask."""
        if not self.words.size:
            self.words = np.full((self.count, *words.shape), FREE, np.uint32)
        self.words[place] = words

    def _free(self, place: int) -> None:
        """Gives a row that has ended the mask that allows all."""
        if self.words.size:
            self.words[place] = FREE


def guided_rows(rows: List[Sequence | None]) -> GuidedRows | None:
    """The GuidedRows of a batch; None where no row has a constraint."""
    return GuidedRows(rows) if any(one.guide for one in rows if one) else None
