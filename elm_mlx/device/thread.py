"""THE device thread: while a model is loaded, the one thread of the process that computes with MLX.

MLX's streams belong to threads: an array that was made in one thread, and is not computed yet, cannot be computed in
another. So all arrays live in one thread. Other threads put commands into its inbox and wait for answers. Between the
commands those who registered for it (engines) take a step in turn. With nothing to do the thread blocks.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol, TypeVar

from elm_mlx.device.job import Callback, Job, NotRun, Relay
from elm_mlx.errors import ElmError, Forked

EXIT_PATIENCE_S = 10.0  # for the step, chunk or part of a job that runs when the interpreter exits
T = TypeVar("T")


class Command(Protocol):
    """What other threads put into the inbox."""

    def run(self) -> None:
        """Does it, on the device thread."""
        ...

    def drop(self, error: ElmError) -> None:
        """Tells those who wait that it will not be done, where the thread ends before its turn."""
        ...


class TakesTurns(Protocol):
    """Work that the device thread does step by step, in turn with other such work."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        ...

    def step(self) -> None:
        """Does a part of the work that is so small that others can wait for it. Raises nothing."""
        ...

    def tell(self) -> None:
        """Tells whoever waits what a step has put off to tell: other work comes first. Raises nothing."""
        ...

    def shut(self, reason: ElmError) -> None:
        """Cancels all work; whoever asks for more gets the reason."""
        ...


class DeviceThread:
    """The thread, its inbox, and those who take turns on it.

    `holders` are the loaded models. `is_busy` says whether there is anything to do, and `last_progress` when a command
    or a step ended last, in seconds of `time.perf_counter`: where the one is true and the other long ago, the device
    hangs.
    """

    def __init__(self) -> None:
        self.holders: set[object] = set()
        self.turns: list[TakesTurns] = []  # only the thread itself changes them
        self.last_progress = time.perf_counter()
        self.is_busy = self.is_exiting = False
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._door = threading.RLock()  # a signal's handler may post while its thread does
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="elm-mlx device", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on this thread."""
        return threading.current_thread() is self._thread

    def post(self, command: Command) -> None:
        """Puts a command into the inbox. Raises NotRun where the thread has ended, Forked in a forked process."""
        refuse_fork()
        with self._door:
            if not self._is_open:
                raise NotRun()
            self._inbox.put(command)

    def order(self, work: Callable[[], None]) -> None:
        """Has `work` done on the thread, between two steps, and waits for nothing. Takes no lock, so that a finalizer
        may call it: these run amid anything, also amid `post`. It is lost where the thread has ended or is another
        process's."""
        if not is_forked():
            self._inbox.put(Order(work))

    def call(self, work: Callable[[Relay], T]) -> T:
        """Runs `work` on the thread, between two steps, and returns its result or raises its error here.

        `work` gets a Relay for callbacks, which are then called in the caller's thread. Where one raises, or the wait
        is interrupted, the job ends there or at its next callback; if it has called one, the caller waits for that. On
        the device thread itself `work` just runs.
        """
        if self.is_here:
            return work(as_it_is)
        job = Job(work, lambda: self.is_exiting)
        self.post(job)
        return job.result()

    def end(self, patience: float | None = None) -> None:
        """Ends the thread after what it does now, and waits for that, at most `patience` seconds. Commands that it has
        not begun are dropped."""
        with self._door:
            self._is_open = False
            self._inbox.put(Order(lambda: None))  # which wakes the thread
        if not self.is_here:
            self._thread.join(patience)

    def _run(self) -> None:
        while self._is_open:
            self._do_commands()
            self._take_turns()
        self._shut()

    def _do_commands(self) -> None:
        """Does the commands that are there; where there is no other work, waits for one."""
        self.is_busy = any(turn.has_work for turn in self.turns)
        if not self.is_busy:
            self._tell()
        for _ in range(self._inbox.qsize() or not self.is_busy):
            self._do_command()

    # The next two keep what they worked on in no variable of a frame that lives on: it would stay in memory.

    def _do_command(self) -> None:
        command = self._inbox.get()
        self._tell()
        self._begin()
        guarded(command.run)
        self.last_progress = time.perf_counter()

    def _take_turns(self) -> None:
        at_work = [turn for turn in self.turns if turn.has_work]
        for turn in at_work:
            if turn.has_work:
                guarded(turn.step)
                self.last_progress = time.perf_counter()
                if len(at_work) > 1:
                    self._tell()

    def _tell(self) -> None:
        """Lets nobody wait for news behind other work, or behind none."""
        for turn in tuple(self.turns):
            guarded(turn.tell)

    def _begin(self) -> None:
        if not self.is_busy:  # an idle time counts as none without progress
            self.last_progress, self.is_busy = time.perf_counter(), True

    def _shut(self) -> None:
        from elm_mlx.device.backend import mx  # here, as conversions come by before anybody needs MLX

        error = NotRun()
        for turn in tuple(self.turns):
            guarded(lambda turn=turn: turn.shut(error))  # type: ignore[misc]
        self.turns.clear()
        while not self._inbox.empty():
            self._inbox.get().drop(error)
        self.is_busy = False
        mx.clear_streams()  # left to the end of the process, they end some of them with an abort


@dataclass(frozen=True)
class Order:
    """A command that nobody waits for."""

    run: Callable[[], None]

    def drop(self, error: ElmError) -> None:
        pass


def guarded(work: Callable[[], object]) -> None:
    """Runs `work`; what it raises is reported as Python reports errors of threads, and the thread lives on."""
    try:
        work()
    except BaseException as error:
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))


# The thread of this process

_lock = threading.RLock()
_running: DeviceThread | None = None
_pid: int | None = None  # of the process that started a device thread


def start(holder: object) -> DeviceThread:
    """Returns the process's device thread, started where there is none. `let_go` of the last holder ends it. Raises
    Forked in a process that was forked after its parent had started one."""
    global _running, _pid
    refuse_fork()
    with _lock:
        if _running is None:
            if _pid is None:
                atexit.register(_end_at_exit)
            _running, _pid = DeviceThread(), os.getpid()
        _running.holders.add(holder)
        return _running


def let_go(holder: object) -> None:
    """Takes back a holder of the device thread; where it was the last one, ends the thread and waits for its end."""
    global _running
    refuse_fork()
    with _lock:
        if (thread := _running) is None:
            return
        thread.holders.discard(holder)
        if thread.holders:
            return
        _running = None
    thread.end()


def running() -> DeviceThread | None:
    """The process's device thread, or None where no model is loaded. Raises Forked."""
    refuse_fork()
    return _running


def on_device(work: Callable[[Relay], T]) -> T:
    """Runs `work` on the device thread where there is one, else here, and returns its result or raises its error.

    `work` is called with a Relay, through which it passes its caller's callbacks: they are called in this thread.
    Raises Forked in a process that was forked after its parent had started a device thread.
    """
    if thread := running():
        try:
            return thread.call(work)
        except NotRun:
            if thread.is_exiting:
                raise
    return work(as_it_is)


def as_it_is(callback: Callback | None) -> Callback | None:
    """The Relay of a job that runs in its caller's thread: callbacks need no detour there."""
    return callback


def is_forked() -> bool:
    """Whether this process was forked from one that had started a device thread."""
    return _pid is not None and _pid != os.getpid()


def refuse_fork() -> None:
    """Raises Forked where `is_forked`. Called before any lock is taken: it may be one that a lost thread holds."""
    if is_forked():
        raise Forked(
            "This process was made by fork from one that had loaded a model, and MLX's threads do not survive a fork.",
            "Start processes with multiprocessing's 'spawn' method, or load models only after the fork.",
        )


def _end_at_exit() -> None:
    """Ends the thread at the interpreter's exit: one that ran on would compute in a process that is taken apart."""
    if (thread := _running) and not is_forked():
        thread.is_exiting = True
        with suppress(KeyboardInterrupt, SystemExit):  # asked once more to end: then it ends without waiting
            thread.end(EXIT_PATIENCE_S)
