"""A request in the hands of the device thread, as other threads see it: what has come, and waiting for more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from elm_mlx.device.thread import guarded, refuse_fork
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import ERROR, Sequence


class State(NamedTuple):
    """How far an answer is: ids of it, ids of the prompt that were read, and why it ended (None: it goes on)."""

    ids: int
    read: int
    finish: str | None


NOTHING = State(0, 0, None)


class Wakes:
    """What is to be woken together: `threads` that wait, and event `loops`, each with the futures of its tasks. Whether
    the main thread was woken, which never waits for others, is in `woke_main`."""

    def __init__(self) -> None:
        self.woke_main = False
        self.threads: list[ThreadWaiter] = []
        self.loops: dict[Any, list[Any]] = {}

    @property
    def are_any(self) -> bool:
        """Whether anybody is to be woken, or was."""
        return bool(self.woke_main or self.threads or self.loops)

    def carry_out(self) -> None:
        """Wakes each event loop once, and one thread, which wakes the others."""
        pass_on(self.threads)
        for loop, futures in self.loops.items():
            with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(settle, futures)


class Waiter(Protocol):
    """Someone who waits for news of a request, or for its end."""

    def wake(self, wakes: Wakes) -> None:
        """Ends the wait, on the device thread; or adds to `wakes` what is to be woken together with others."""
        ...


class Handle:
    """What a reader holds of its request.

    `sequence` is the request's state once the engine has it, and None before. A `bound` that the reader sets before
    that is handed on to it, and so is that it was cancelled, `is_left`. Readers hear of what was read of the prompt
    only where one has set `hears_reading`. They may be in any thread; the device thread calls `begin` and `wake`.
    """

    def __init__(self, request: Request, is_patient: bool = False) -> None:
        self.request, self.is_patient = request, is_patient
        self.asked_at = time.perf_counter()
        self.sequence: Sequence | None = None
        self.refusal: Exception | None = None
        self.hears_reading = self.is_left = False
        self._bound: int | None = None
        self._lock = threading.RLock()  # a signal's handler may cancel while its thread enlists
        self._readers: list[Waiter] = []  # they wait for news,
        self._enders: list[Waiter] = []  # they for the end

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
        waiter = ThreadWaiter()
        try:
            return not self.enlist(waiter, known) or waiter.wait(timeout)
        finally:
            self.dismiss(waiter)
            waiter.leave()

    def enlist(self, waiter: Waiter, known: State | None) -> bool:
        """Registers a waiter, unless the answer is further than `known` already (None: at its end). Returns whether it
        was registered; one that was woken meanwhile counts as registered, so that nobody is woken twice."""
        # First the waiter, then the look at the ids; the device thread first appends ids, then looks for waiters. So
        # one of the two sees the other, and the device thread needs no lock where nobody waits.
        waiters = self._readers if known is not None else self._enders
        with self._lock:
            waiters.append(waiter)
        state = self.state
        if state.finish is None and (known is None or state == known):
            return True
        return not self.dismiss(waiter)

    def dismiss(self, waiter: Waiter) -> bool:
        """Takes a waiter back that waits no longer. Returns whether it was still there, and so was not woken."""
        with self._lock:
            for waiters in (self._readers, self._enders):
                if waiter in waiters:
                    waiters.remove(waiter)
                    return True
        return False

    def wake(self, wakes: Wakes) -> None:
        """Wakes those who wait for the news there are; adds to `wakes` those to be woken together with others."""
        ids, _, finish = self.state
        if self._readers and (ids or finish is not None or self.hears_reading):
            self._wake(self._readers, wakes)
        if self._enders and finish is not None:
            self._wake(self._enders, wakes)

    def tell(self) -> None:
        """Wakes those who wait, without others."""
        wakes = Wakes()
        self.wake(wakes)
        wakes.carry_out()

    def _wake(self, waiters: list[Waiter], wakes: Wakes) -> None:
        with self._lock:
            woken = waiters.copy()
            waiters.clear()
        for waiter in woken:
            waiter.wake(wakes)


class ThreadWaiter:
    """A thread that waits.

    Waking a thread costs the device thread some microseconds. So it wakes one of all threads that have news; that one
    wakes the next before it goes on, and so forth. A signal's handler may raise anywhere in the main thread, so others
    never wait for that one to wake them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._door = threading.RLock()  # a signal's handler may wake others while its thread does
        self._thread, self._has_left = threading.current_thread(), False
        self._others: list[ThreadWaiter] = []  # those that it has to wake

    def wait(self, timeout: float | None) -> bool:
        """Blocks until woken, at most `timeout` seconds; returns whether it was. Signals are handled meanwhile."""
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def wake(self, wakes: Wakes) -> None:
        """Ends the wait together with those of others; that of the main thread at once."""
        if threading.main_thread() is self._thread:
            wakes.woke_main |= self.wake_with([])
        else:
            wakes.threads.append(self)

    def wake_with(self, others: list[ThreadWaiter]) -> bool:
        """Ends the wait, and leaves it to this thread to wake the others. Returns False, and leaves it to the caller,
        where the thread waits no longer."""
        with self._door:
            if self._has_left:
                return False
            self._others = others
            self._lock.release()
            return True

    def leave(self) -> None:
        """Ends the wait for good, and wakes the others that are left to this thread."""
        with self._door:
            self._has_left = True
        pass_on(self._others)


def pass_on(waiters: list[ThreadWaiter]) -> None:
    """Wakes the first thread that still waits, and leaves it to that one to wake those after it."""
    for place, waiter in enumerate(waiters, 1):
        if waiter.wake_with(waiters[place:]):
            return


class CallWaiter:
    """A function to be called, on the device thread, when an answer ends: it must be quick and raise nothing. Where it
    raises all the same, that is reported, and the others who wait are woken."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def wake(self, _: Wakes) -> None:
        """Calls it."""
        guarded(self._call)


def settle(futures: list[Any]) -> None:
    """Ends the waits that were not cancelled meanwhile, in the loop's thread."""
    for future in futures:
        if not future.done():
            future.set_result(None)
