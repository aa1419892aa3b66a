"""What guesses the next ids of an answer, which the model then judges together; as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.engine.decodes import Decodes


class Proposer(Protocol):
    """Guesses how one sequence goes on. The guesses are a function of the ids that it was given: so the same requests
    and the same steps give the same guesses on another machine."""

    def read(self, ids: Sequence[int]) -> bool:
        """Takes in what is new of `ids`, the prompt and the answer so far, as far as one step has time for. Returns
        whether it can propose now; if not, this step goes without proposals."""
        ...

    def propose(self, most: int) -> mx.array | list[int]:
        """Up to `most` ids [k] that may follow those that were read: numbers, or an array that nobody has evaluated."""
        ...

    def accepted(self, count: int) -> None:
        """Is told that the first `count` of the last proposals were right, and the next one, if any, was not."""
        ...


class Rounds(Protocol):
    """The speculation of one sequence, as the engine sees it: it decides how much is proposed, and runs rounds."""

    def choose(self) -> int:
        """How many ids to propose in the next step; 0 means that it is a plain one."""
        ...

    def run(self, model: Decodes, most: int) -> bool:
        """Has the model judge up to `most` proposals; False where there are none, and a plain step is to be taken."""
        ...
