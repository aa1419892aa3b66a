"""The engine of rank 0: it decides what is done, and tells the other ranks of it before it does it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, Protocol

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.distributed.wire import refuse_shared, request_message, state_of
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.plan import StepPlan
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence


class Crew(Protocol):
    """The ranks, as an engine uses them (`elm_mlx.distributed.ranks.Ranks`)."""

    @property
    def has_failed(self) -> bool:
        """Whether the run has failed."""
        ...

    def agree(self, ids: mx.array, peaks: mx.array) -> tuple[mx.array, mx.array]:
        """The ids [B] that rank 0 has drawn, and their peaks [B]."""
        ...

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a message to all other ranks."""
        ...

    def in_step(self) -> AbstractContextManager[int]:
        """Notes that a step is taken, and gives its number."""
        ...

    def fail(self, error: BaseException) -> Exception:
        """Tells all ranks of an error, and returns the one that all get."""
        ...

    def close(self) -> None:
        """Ends the run."""
        ...


class LeadingEngine(Engine):
    """An Engine whose requests, orders and plans go to the other ranks, which take the same steps.

    What ends an answer is found out here alone, and told right after the step. A step that fails on any rank ends the
    run.
    """

    def __init__(self, model: Decodes, layers: int, limits: Limits, execution: Execution, crew: Crew) -> None:
        super().__init__(model, layers, limits, execution, agree=crew.agree)
        self.crew, self.now = crew, time.monotonic()
        self.ended: list[tuple[int, str | None]] = []  # in the step that is taken, in order; why
        self.prefixes.clock = lambda: self.now

    def submit(self, request: Request) -> Sequence:
        """Queues a request as an Engine does. Raises InvalidRequest for one that several machines cannot answer."""
        refuse_shared(request)
        sequence = super().submit(request)
        self.crew.tell({"request": request_message(sequence)})
        return sequence

    def carry_out(self, plan: StepPlan) -> list[Sequence]:
        """Takes the step that a plan describes, as all ranks do."""
        with self.crew.in_step() as number:
            self.now, self.ended = time.monotonic(), []
            self.crew.tell({"step": number, "plan": plan, "now": self.now, "state": state_of(self)})
            news = super().carry_out(plan)
            if ended := [one for one in self.ended if one[0] not in plan.cancelled]:
                self.crew.tell({"ended": ended})
            return news

    def disown(self, owner: int) -> None:
        """Lets anybody have what is kept for an owner, on all ranks."""
        self.crew.tell({"disown": owner})
        super().disown(owner)

    def forget_prefixes(self) -> int:
        """Gives back what is kept for later requests, on all ranks."""
        self.crew.tell({"forget": True})
        return super().forget_prefixes()

    def fail(self, error: Exception) -> list[Sequence]:
        """Ends the run: raises the error that all ranks get."""
        raise self.crew.fail(error.__cause__ or error)

    def close(self) -> list[Sequence]:
        """Ends everything, on all ranks."""
        try:
            return super().close()
        except RuntimeError:  # a collective of the step that failed with the run, and that MLX tells of only now
            if not self.crew.has_failed:
                raise
            return []
        finally:
            self.crew.close()

    def _drop(self, one: Sequence) -> Sequence:
        """Takes a sequence out, and notes it for the others."""
        super()._drop(one)
        self.ended.append((one.number, one.finish))
        return one
