"""A step of the engine as a value: decided in one place, then only carried out."""

from __future__ import annotations

from typing import NamedTuple


class StepPlan(NamedTuple):
    """What one step does, in the numbers of sequences.

    The `cancelled` ones end. Of the `admitted` ones the first leaves the queue, and those after it whose prompts can be
    read together with its own. Of the prompt of the first alone, or of that of `reading`, one round of chunks is read.
    The `rows` decode one step, submitted `early` (before the ids of the step before are read) or late. With `proposals`
    there is one row, and its step judges up to so many proposed ids.

    Everything that depends on clocks, on readers or on memory is decided here. What a constraint allows is not: it
    depends on the ids before alone. So an engine that is given the requests and the plans of another one takes the
    same steps: that is how several machines may follow one.
    """

    cancelled: tuple[int, ...] = ()
    admitted: tuple[int, ...] = ()
    reading: int | None = None
    rows: tuple[int, ...] = ()
    early: bool = True
    proposals: int = 0
