"""A request in the hands of the device thread, as other threads see it: what has come, and waiting for more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple, Protocol

from elm_mlx.device.thread import refuse_fork
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import ERROR, Sequence


class State(NamedTuple):
    """How far an answer is: ids of it, ids of the prompt that were read, and why it ended (None: it goes on)."""

    ids: int
    read: int
    finish: str | None


NOTHING = State(0, 0, None)


class Waiter(Protocol):
    """Someone who waits for news of a request. With `for_end` only its end counts."""

    for_end: bool

    def wake(self) -> Wake | None:
        """Ends the wait, on the device thread; or returns what is to be woken together with others."""
        ...


class Wake(NamedTuple):
    """Something that is called with all Wakes of one `loop` and one step: an event loop is woken once a step."""

    loop: object
    what: object
    call: Callable[[object, list[object]], None]


class Handle:
    """What a reader holds of its request.

    `sequence` is the request's state once the engine has it, and None before. A `bound` that the reader sets before
    that is handed on to it. Readers may be in any thread; the device thread calls `begin`, `refuse` and `wake`.
    """

    def __init__(self, request: Request, is_patient: bool = False) -> None:
        self.request, self.is_patient = request, is_patient
        self.asked_at = time.perf_counter()
        self.sequence: Sequence | None = None
        self.refusal: Exception | None = None
        self._bound: int | None = None
        self._lock = threading.RLock()  # a signal's handler may cancel while its thread enlists
        self._waiters: list[Waiter] = []

    @property
    def state(self) -> State:
        """How far the answer is."""
        if (sequence := self.sequence) is None:
            return NOTHING if self.refusal is None else State(0, 0, ERROR)
        finish = sequence.finish  # first: once it is set, no id comes any more
        return State(len(sequence.ids), sequence.read, finish)

    @property
    def error(self) -> Exception | None:
        """The error that ended the request, if one did."""
        return self.refusal or (self.sequence.error if self.sequence else None)

    @property
    def bound(self) -> int | None:
        """How many ids may wait for the reader before the request pauses; None means any number."""
        return self._bound

    @bound.setter
    def bound(self, value: int | None) -> None:
        self._bound = value
        if self.sequence:
            self.sequence.bound = value

    def begin(self, sequence: Sequence) -> None:
        """Notes that the engine took the request."""
        self.sequence = sequence
        sequence.bound = self._bound  # after the line above: a reader that sees no sequence has set `_bound` by then

    def refuse(self, error: Exception) -> None:
        """Ends a request that the engine did not take."""
        self.refusal = error

    def wait(self, known: State | None, timeout: float | None = None) -> bool:
        """Blocks until the answer is further than `known` (None: until its end), at most `timeout` seconds. Returns
        whether it is. Raises Forked."""
        refuse_fork()
        waiter = ThreadWaiter(for_end=known is None)
        if not self.enlist(waiter, known):
            return True
        try:
            return waiter.wait(timeout)
        finally:
            self.dismiss(waiter)

    def enlist(self, waiter: Waiter, known: State | None) -> bool:
        """Registers a waiter, unless the answer is further than `known` already (None: at its end). Returns whether it
        was registered."""
        # The device thread appends ids before it takes the lock. So either they are seen here, or it sees the waiter.
        with self._lock:
            state = self.state
            if state.finish is not None or (known is not None and state != known):
                return False
            self._waiters.append(waiter)
            return True

    def dismiss(self, waiter: Waiter) -> None:
        """Takes a waiter back that waits no longer."""
        with self._lock, suppress(ValueError):
            self._waiters.remove(waiter)

    def wake(self) -> Iterable[Wake]:
        """Wakes those who wait for the news there are; gives those to be woken together with others."""
        with self._lock:
            if not self._waiters:
                return ()
            is_over = self.state.finish is not None
            woken = [waiter for waiter in self._waiters if is_over or not waiter.for_end]
            self._waiters = [waiter for waiter in self._waiters if waiter not in woken]
        return [wake for waiter in woken if (wake := waiter.wake())]


class ThreadWaiter:
    """A thread that waits."""

    def __init__(self, *, for_end: bool) -> None:
        self.for_end = for_end
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> bool:
        """Blocks until woken, at most `timeout` seconds; returns whether it was. Signals are handled meanwhile."""
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def wake(self) -> None:
        self._lock.release()


class CallWaiter:
    """A function to be called, on the device thread, when an answer ends: it must be quick and raise nothing."""

    for_end = True

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def wake(self) -> None:
        self._call()


def wake_together(wakes: Iterable[Wake]) -> None:
    """Calls each loop's Wakes at once."""
    loops: dict[object, list[Wake]] = {}
    for wake in wakes:
        loops.setdefault(wake.loop, []).append(wake)
    for loop, its in loops.items():
        its[0].call(loop, [wake.what for wake in its])
