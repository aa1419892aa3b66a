"""Which ids may come next in an answer that has to keep a form: the engine's side, which knows no text."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np


class Constraint(Protocol):
    """Follows the ids of one answer, and says which may come next."""

    def mask(self) -> np.ndarray:
        """The ids that may come next, as bits: uint32 [ceil(V / 32)], bit i % 32 of word i // 32 for id i. At least one
        is set; those beyond V count for nothing. It is asked for once after each id, while the device computes a step:
        what it takes longer than that, all rows of the batch wait for. Raises ElmError where no id may come next, or
        where the form turns out to be one that cannot be followed."""
        ...

    def accept(self, token: int) -> None:
        """Takes the next id of the answer, which its mask allows. Stop ids are never handed over."""
        ...

    def fork(self) -> Self:
        """A copy that goes on alone: for ids that are only proposed."""
        ...
