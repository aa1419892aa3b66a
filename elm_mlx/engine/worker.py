"""An engine on the device thread: it takes requests from any thread, and wakes those who wait for ids of theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import finalize

from elm_mlx.device import release
from elm_mlx.device.backend import mx
from elm_mlx.device.memory import CacheWish
from elm_mlx.device.thread import DeviceThread, NotRun, guarded, refuse_fork
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.handle import Handle, Wakes
from elm_mlx.engine.places import Places
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import CANCELLED, ERROR, Sequence
from elm_mlx.errors import ElmError, EngineStopped, RequestFailed

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
# Seconds after first ids, in which their readers get the interpreter: else they may wait until the next step is built.
# It costs little, once an answer.
YIELD_S = 0.0001
# Seconds from one waking of readers to the next while nothing but decoding goes on, but for first ids and ends. Nobody
# sees the difference, and each takes time from the device thread and from MLX's own.
REST_S = 0.004
MOST_FAILURES = 2  # with no sign of health between them: then it is no accident of one step


class Activity(NamedTuple):
    """What a model does at a moment: requests that run and that wait, the bytes that the caches of all running ones
    have reserved, those that all caches may take, and why the model answers no more, if it does not."""

    running: int = 0
    waiting: int = 0
    reserved_bytes: int = 0
    limit_bytes: int = 0
    stopped: ElmError | None = None


class Worker:
    """The engine of one loaded model, as all other threads reach it.

    At most `most` requests are unanswered at a time, those aside that are submitted as `patient`, whose caller bounds
    their number. `wish` is what the model calls for when the memory of caches is planned. Close it with `close`.
    """

    def __init__(self, thread: DeviceThread, engine: Engine, most: int, wish: CacheWish) -> None:
        self.thread, self.wish, self.places = thread, wish, Places(most)
        self._engine: Engine | None = engine
        self._untold: list[Sequence] = []  # those with news whose readers are to be woken
        self._told_at = 0.0  # when readers were woken last, in seconds of time.perf_counter
        engine.batch.before_handing_over = self._tell_in_time
        self._handles: dict[Sequence, Handle] = {}  # of the unfinished requests
        self._failures = 0
        self._reason: ElmError | None = None  # why nothing is answered any more

    # In any thread

    def submit(self, request: Request, *, patient: bool = False, after: Future[Any] | None = None) -> Handle:
        """Queues a request, as soon as `after` is done where that is given, and returns its handle at once. What
        `after` gives, or raises, is the affair of the request's constraint. Raises QueueFull, NotEnoughMemory,
        EngineStopped, Forked."""
        self.check()
        self._refuse_impossible(request)
        self.places.take(patient)
        handle = Handle(request, patient)
        if after and not after.done():
            after.add_done_callback(lambda _: self._queue(handle))
        elif error := self._queue(handle):
            raise error
        return handle

    def _queue(self, handle: Handle) -> NotRun | None:
        """Hands a request over to the device thread; where there is none any more, ends it and returns why."""
        try:
            self.thread.post(Submission(self, handle))
        except NotRun as error:
            self._refuse(handle, error)
            return error
        return None

    def _refuse_impossible(self, request: Request) -> None:
        """Raises NotEnoughMemory where the caches of a request can never fit. Only numbers are looked at that stay as
        they are while models are loaded, so any thread may do so; the engine asks again."""
        if (engine := self._engine) and request.max_tokens:
            positions = len(request.prompt) + request.max_tokens - 1
            engine.limits.budget.refuse_impossible(engine.admission.bytes_of(request, positions), positions)

    def check(self) -> None:
        """Raises Forked in a forked process, and EngineStopped where nothing is answered any more."""
        refuse_fork()
        if self._reason:
            raise again(self._reason)

    @property
    def activity(self) -> Activity:
        """What is done now. Nothing is waited for, so any thread may ask while the device hangs."""
        if not (engine := self._engine):
            return Activity(stopped=self._reason)
        waiting, budget = len(engine.waiting), engine.limits.budget
        return Activity(max(0, len(engine.active) - waiting), waiting, budget.reserved, budget.limit, self._reason)

    def call(self, work: Callable[[Engine], T]) -> T:
        """Runs `work` with the engine on the device thread, between two steps, and returns its result. Raises the
        ElmErrors that it raises, RequestFailed for any other, EngineStopped, Forked."""
        try:
            return self.thread.call(lambda _: work(self.engine))
        except ElmError:
            raise
        except Exception as cause:
            raise failed(cause) from cause

    def order(self, work: Callable[[], None]) -> None:
        """Has `work` done on the device thread, between two steps, and waits for nothing. Takes no lock, so that a
        finalizer may call it, and all that is made of it here."""
        self.thread.order(work)

    def cancel(self, handle: Handle) -> None:
        """Has a request end as cancelled at the next step."""
        self.order(lambda: self._cancel(handle))

    def resume(self) -> None:
        """Lets the engine see that the reader of a paused request has taken ids."""
        self.order(lambda: None)

    def let_go(self, handle: Handle) -> None:
        """Lets the engine take back the caches that it holds for a request that asked for it. That also happens when
        nobody has the handle any more."""
        self.order(lambda: self._let_go(handle.sequence))

    def disown(self, owner: int) -> None:
        """Lets anybody have what is kept for an owner, who asks no more."""
        self.order(lambda: self._disown(owner))

    def abandon(self, error: ElmError) -> None:
        """Ends all requests with an error, as well as it goes from outside of the device thread, which may hang for
        ever; later ones get it, too."""
        self._reason = self._reason or error
        for sequence, handle in [*self._handles.items()]:
            sequence.end(ERROR, error)
            handle.tell()

    def close(self) -> None:
        """Ends all requests as cancelled, and gives the caches back. Returns when that is done."""
        with suppress(NotRun):  # the thread has ended, and closed everything
            self.thread.call(lambda _: self.shut(closed()))

    def close_from_finalizer(self) -> None:
        """Closes as `close` does, but waits for nothing."""
        self.order(lambda: self.shut(closed()))

    # On the device thread

    @property
    def engine(self) -> Engine:
        """The engine, for jobs on the device thread. Raises EngineStopped."""
        self.check()
        assert self._engine
        return self._engine

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return self._engine is not None and self._engine.has_work

    def step(self) -> None:
        """Takes one step of the engine, and wakes the readers of the requests that have news: at once, or, where
        another step is built next, when that one or a later one is handed over. Until then this thread holds the
        interpreter, and they would only wake to wait for it."""
        assert self._engine
        try:
            news = self._engine.step()
        except BaseException as error:  # a tokenizer's panic is no Exception
            self._fail(error)
            return
        if self._failures and any(len(one.ids) > 1 for one in news):
            self._failures = 0  # not with a first id, which is drawn from the prompt: decoding may fail all the same
        self._untold += news
        if not self._engine.decodes_next or any(one.finish or len(one.ids) == 1 for one in news):
            self.tell()

    def tell(self) -> None:
        """Wakes the readers who were not woken yet."""
        if self._untold:
            news, self._untold = dict.fromkeys(self._untold), []
            self._hand_over(news)
            self._told_at = time.perf_counter()

    def _tell_in_time(self) -> None:
        """Wakes the readers who were not woken yet, unless others were just now: then a later step does."""
        if self._untold and time.perf_counter() - self._told_at > REST_S:
            self.tell()

    def _stop(self, error: ElmError) -> None:
        """Ends all requests with an error, and answers later ones with it."""
        for sequence in self._handles:
            sequence.end(ERROR, error)
        self.shut(error)

    def shut(self, reason: ElmError) -> None:
        """Ends what still runs as cancelled and drops the engine. Later requests get the `reason`."""
        self._reason = self._reason or reason
        if engine := self._engine:
            self.tell()
            self._engine = None
            self.thread.turns.remove(self)
            guarded(engine.close)
            for execution in engine.executions:
                release(execution)
            del engine
            mx.clear_cache()  # what the model and its caches held goes back to the system
            for sequence in self._handles:
                sequence.end(CANCELLED)
            self._hand_over(list(self._handles))

    def _fail(self, cause: BaseException) -> None:
        """Ends the requests of a step that failed; where that happens too often in a row, stops the engine."""
        self.tell()
        self._failures += 1
        try:
            self.engine.fail(failed(cause))
        except EngineStopped as reason:
            return self._stop(reason)
        except BaseException as worse:
            cause, self._failures = worse, MOST_FAILURES
        if self._failures == MOST_FAILURES:
            stopped = EngineStopped(f"Computing failed twice in a row, so the model was stopped: {cause!r:.300}",
                                    "Close it and load it again.")  # fmt: skip
            stopped.__cause__ = cause
            self._stop(stopped)  # before the readers are woken: they may ask whether it goes on
        else:
            self._hand_over([sequence for sequence in self._handles if sequence.finish])

    def _hand_over(self, news: Collection[Sequence]) -> None:
        """Wakes the readers of sequences with news: each event loop once, and one thread, which wakes the others. Who
        waits for a first id is waited for, too."""
        wakes = Wakes()
        for sequence in news:
            if handle := self._handles.get(sequence):
                if sequence.finish:
                    del self._handles[sequence]
                    self.places.give_back(handle.is_patient)
                handle.wake(wakes)
        wakes.carry_out()
        if wakes.are_any and any(len(one.ids) == 1 for one in news):
            time.sleep(YIELD_S)

    def _take(self, handle: Handle) -> None:
        """Hands a request to the engine."""
        try:
            sequence = self.engine.submit(handle.request)
        except ElmError as error:
            return self._refuse(handle, error)
        except BaseException as error:
            return self._refuse(handle, failed(error))
        self._handles[sequence] = handle
        handle.begin(sequence)
        if handle.is_left:
            self.engine.cancel(sequence)
        if handle.request.hold:  # Ctrl-C may come at any place, also before the caller has the handle
            finalize(handle, self.order, lambda: self._let_go(sequence)).atexit = False

    def _refuse(self, handle: Handle, error: Exception) -> None:
        """Ends a request that the engine did not take."""
        handle.refuse(error)
        self.places.give_back(handle.is_patient)
        handle.tell()

    def _cancel(self, handle: Handle) -> None:
        """Has the engine cancel a request that is not over, as soon as it has it."""
        handle.is_left = True
        if self._engine and handle.sequence in self._handles:
            self._engine.cancel(handle.sequence)

    def _disown(self, owner: int) -> None:
        if self._engine:
            self._engine.disown(owner)

    def _let_go(self, sequence: Sequence | None) -> None:
        if self._engine and sequence:
            self._engine.let_go(sequence)


@dataclass(frozen=True)
class Submission:
    """The command that a request be taken."""

    worker: Worker
    handle: Handle

    def run(self) -> None:
        self.worker._take(self.handle)

    def drop(self, error: ElmError) -> None:
        self.worker._refuse(self.handle, error)


def closed() -> EngineStopped:
    """Makes the error for a call of a model that was closed."""
    return EngineStopped("The model was closed.", "Load it again.")


def failed(cause: BaseException) -> RequestFailed:
    """Makes the error for the requests of a step that failed."""
    error = RequestFailed(f"A computing step for this request failed: {cause!r:.300}", "Ask again.")
    error.__cause__ = cause
    return error


def again(error: Exception) -> Exception:
    """A copy of an error, to be raised: several threads may get the one error, and each adds its own traceback."""
    fresh = copy(error)
    fresh.__cause__ = error.__cause__
    return fresh


def give_back(worker: Worker, holder: object) -> None:
    """Gives back what a loaded model had that nobody holds any more. Finalizers call it: it waits for nothing, and
    leaves the device thread for the next model."""
    worker.close_from_finalizer()
    worker.thread.holders.discard(holder)
