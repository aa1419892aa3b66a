"""The engine of a rank above 0: it takes the steps that rank 0 has planned, and decides nothing."""

from __future__ import annotations

from typing import Any

from elm_mlx.device.execution import Execution
from elm_mlx.distributed.leader import Crew
from elm_mlx.distributed.wire import difference, plan_in, request_in, state_of
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.errors import ElmError


class OutOfStep(ElmError):
    """A rank's state is not that of rank 0, or rank 0 says what it does not understand."""


class Followed(Sequence):
    """A request of rank 0: it takes ids and ends by nothing, until rank 0 says so. It `draws_late` where rank 0 first
    asks a constraint."""

    late = False

    @property
    def draws_late(self) -> bool:
        """Whether rank 0 draws its first id after the others' step is submitted."""
        return self.late

    def accept(self, token: int, peak: float, now: float, entry: TokenLogprob | None = None) -> None:
        """Appends the id that rank 0 has drawn."""
        self.ids.append(token)


class FollowingEngine(Engine):
    """An Engine that is told what to do, a message after the other."""

    def __init__(self, model: Decodes, layers: int, limits: Limits, execution: Execution, crew: Crew) -> None:
        super().__init__(model, layers, limits, execution, agree=crew.agree)
        self.crew, self.now = crew, 0.0
        self.prefixes.clock = lambda: self.now

    def obey(self, message: dict[str, Any]) -> bool:
        """Does what a message of rank 0 says, and returns whether there will be more. Raises OutOfStep."""
        match message:
            case {"step": _}:
                self._take_step(message)
            case {"request": dict(request)}:
                self._take_request(request)
            case {"ended": list(ended)}:
                for number, finish in ended:
                    self._end(number, finish)
            case {"disown": int(owner)}:
                self.disown(owner)
            case {"forget": True}:
                self.forget_prefixes()
            case {"close": True}:
                return False
            case _:
                raise OutOfStep(f"rank 0 says what is not understood here: {sorted(message)!r:.200}")
        return True

    def _take_request(self, message: dict[str, Any]) -> None:
        """Queues a request of rank 0."""
        one = self._followed(message["number"], request_in(message), message["room"])
        one.late = message["late"]
        self.active[one.number] = one
        self.waiting.append(one)

    def _followed(self, number: int, request: Request, room: int) -> Followed:
        return Followed(number, request, room, self.execution.compiled, self.agree)

    def _take_step(self, message: dict[str, Any]) -> None:
        """Takes a step of rank 0, if all is as it is there."""
        with self.crew.in_step() as number:
            if number != message["step"]:
                raise OutOfStep(f"rank 0 takes step {message['step']}, and it is step {number} here")
            if found := difference(message["state"], state_of_json(self)):
                raise OutOfStep(f"it is out of step with rank 0: {found}")
            self.now = message["now"]
            self.carry_out(plan_in(message["plan"]))

    def _end(self, number: int, finish: str) -> None:
        """Takes out a sequence that has ended on rank 0."""
        one = self.active[number]
        one.end(finish)
        self._drop(one)


def state_of_json(engine: Engine) -> list[Any]:
    """The engine's state as it comes out of a message."""
    return [list(values) for values in state_of(engine)]
