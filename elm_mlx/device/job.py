"""A function that runs on the device thread while its caller waits, and calls back in the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from elm_mlx.errors import ElmError, EngineStopped

CALLBACK_PATIENCE_S = 1.0  # of a job with a callback of its caller
Callback = Callable[..., None]
Relay = Callable[[Callback | None], Callback | None]
"""What a job passes callbacks of its caller through: on the device thread it makes one that runs in the caller's."""


class NotRun(EngineStopped):
    """The device thread ended before it began what was asked."""

    def __init__(self, message: str = "The model was closed.", advice: str = "Load it again.") -> None:
        super().__init__(message, advice)


class Abandoned(BaseException):
    """Ends a job whose caller waits no longer; no `except Exception` may keep it."""


class Job:
    """A function that runs on the device thread while its caller waits, and calls back in the caller's thread."""

    def __init__(self, work: Callable[[Relay], Any], is_exiting: Callable[[], bool]) -> None:
        """`is_exiting` says whether the program ends, and with it the job."""
        self._work, self._is_exiting = work, is_exiting
        self._is_abandoned = self._has_ticked = False
        self._is_over = threading.Event()
        self._keeps_step, self._returns = True, SimpleQueue[None]()
        self._answers: SimpleQueue[tuple[str, Any]] = SimpleQueue()

    def run(self) -> None:
        """Runs the function, on the device thread; its caller gets what it returns or raises."""
        try:
            self._tick()
            self._answers.put(("done", self._work(self._relay)))
        except Abandoned:
            self._answers.put(("failed", NotRun("The program ends.", "")))
        except BaseException as error:  # whatever it is, it belongs to the caller
            self._answers.put(("failed", error))
        finally:
            self._is_over.set()

    def drop(self, error: ElmError) -> None:
        """Gives the caller an error: the function will not run."""
        self._answers.put(("failed", error))

    def _relay(self, callback: Callback | None) -> Callback:
        """A callback for the job that has `callback`, if there is one, called by the caller's thread."""

        def tick(*arguments: Any) -> None:
            self._has_ticked = True
            self._tick()
            if callback:
                self._answers.put(("call", (callback, arguments)))
                self._keep_step()
                self._tick()

        return tick

    def _keep_step(self) -> None:
        """Waits until the callback has returned, so that one that raises ends the job at this place. One that takes
        long may itself wait for the device: it is not waited for, nor are later ones."""
        try:
            if self._keeps_step:
                self._returns.get(timeout=CALLBACK_PATIENCE_S)
        except Empty:
            self._keeps_step = False

    def _abandon(self) -> None:
        """Has the job end when it next calls back, and waits for that where it has called back before: so it has tidied
        up when its caller goes on."""
        self._is_abandoned = True
        self._returns.put(None)
        if self._has_ticked:
            self._is_over.wait()

    def _tick(self) -> None:
        if self._is_abandoned or self._is_exiting():
            raise Abandoned

    def result(self) -> Any:
        """Waits in the caller's thread, calls callbacks there, and returns the job's result or raises its error."""
        try:
            while (answer := self._answers.get())[0] == "call":
                callback, arguments = answer[1]
                callback(*arguments)
                self._returns.put(None)
        except BaseException:
            self._abandon()
            raise
        if answer[0] == "done":
            return answer[1]
        try:
            raise answer[1]
        finally:
            del answer  # its traceback leads to this frame: a circle that would keep the job's arrays in memory
