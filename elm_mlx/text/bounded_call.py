"""A call that takes a limited time, in a thread of its own: for libraries that compute without the interpreter's
lock and cannot be interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from elm_mlx.errors import NotEnforceable, QueueFull

T = TypeVar("T")
STACK = 128 << 20  # bytes: a form of 64 kB can name rules in a chain of thousands, each a recursion
AT_ONCE = 2  # threads, so that forms which take too long cannot take all cores
FREE = threading.BoundedSemaphore(AT_ONCE)
SIZES = threading.Lock()  # held while the size of stacks, which is the process's, is another one
PATIENCE = 4  # times the limit that is waited by the clock: the machine, or the threads, may be busy
LOOK_S = 0.05  # between looks at the processor time


class Work:
    """A call in a thread of its own. `done` is set when it has ended."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._clock: int | None = None  # of the thread's processor time, where the system shows it to others
        self._value: Any = None
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """Calls, and keeps what that gives."""
        try:
            if hasattr(time, "pthread_getcpuclockid"):
                self._clock = time.pthread_getcpuclockid(threading.get_ident())
            self._value = self._call()
        except BaseException as error:
            self._error = error
        finally:
            FREE.release()
            self.done.set()

    def spent(self, waited: float) -> float:
        """How many seconds it has computed, of the `waited` ones: others may keep it from the processor, for at most so
        many times as long. Where the system does not show that, all of those that were waited."""
        if self._clock is None:
            return waited
        try:
            return max(time.clock_gettime(self._clock), waited / PATIENCE)
        except OSError:  # the thread has just ended
            return 0

    def answer(self) -> Any:
        """What the call gave. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """Returns `call()`. Raises what it raises; NotEnforceable where it takes more than so many `seconds` of the
    processor, and QueueFull where no thread becomes free for it in PATIENCE times as many of the clock. A call that
    takes longer goes on until it ends by its own bounds."""
    if not FREE.acquire(timeout=PATIENCE * seconds):
        raise QueueFull("Other forms of answers are being prepared. Ask again.")
    work = Work(call)
    start_thread(work.run)
    begun = time.perf_counter()
    while not work.done.wait(LOOK_S):
        if work.spent(time.perf_counter() - begun) > seconds:
            raise NotEnforceable(f"The form of the answer takes more than {seconds:g} s to prepare. Make it simpler.")
    answer: T = work.answer()
    return answer


def start_thread(work: Callable[[], None]) -> None:
    """Starts a thread with a large stack, of which only what is used takes memory."""
    thread = threading.Thread(target=work, name="elm-mlx form")  # no daemon: it would outlive the interpreter
    with SIZES:
        usual = threading.stack_size(STACK)
        try:
            thread.start()
        except BaseException:
            FREE.release()
            raise
        finally:
            threading.stack_size(usual)
