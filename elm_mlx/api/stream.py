"""An answer while it comes: read piece by piece in any thread or event loop, waited for, or cancelled."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any
from weakref import finalize

from elm_mlx.api.completion import Completion, Piece, stats_of
from elm_mlx.api.pieces import AnswerPieces, said_in
from elm_mlx.api.structure import Structure, value_of
from elm_mlx.arguments import Progress, real_number
from elm_mlx.device.thread import is_forked, refuse_fork
from elm_mlx.engine.handle import NOTHING, CallWaiter, Handle, State
from elm_mlx.engine.logprobs import TokenLogprob
from elm_mlx.engine.sequence import CANCELLED, ERROR, STOP
from elm_mlx.engine.worker import Worker, again
from elm_mlx.errors import Cancelled, InvalidRequest, TimedOut
from elm_mlx.text.answer import CALLED

OUTBOX = 256  # ids that may wait for a reader: then its request pauses, and no other one


class Stream:
    """An answer that a loaded model is giving: an iterator, and an async iterator, over Pieces.

    The answer goes on whether it is read or not; but once it is read, it pauses where the reader is OUTBOX ids late.
    Any thread may read or cancel it. Several may read: each piece goes to one of them. Iteration raises the error that
    ended the answer, if one did; where it was cancelled, it just ends. A stream that nobody holds any more is
    cancelled, and so is one whose reader is interrupted while it waits (Ctrl-C, asyncio's cancellation).
    """

    def __init__(
        self, handle: Handle, worker: Worker, cut: AnswerPieces, lm: object, progress: Progress | None = None
    ) -> None:
        """Reads the request of `handle`, whose answer `cut` makes pieces of. `lm` is what must not be given back before
        the answer was read or cancelled; `progress` is called with (tokens of the prompt read, in all) by whoever
        waits."""
        self._handle, self._worker, self._cut = handle, worker, cut
        self._lm: object | None = lm
        self._progress = progress
        handle.hears_reading = progress is not None
        self._notes = handle.request.logprobs is not None  # whether pieces have log-probabilities
        self._pieces: list[Piece] = []
        self._ready: list[Piece] = []  # those of an id that was taken, the last one first
        self._taken = 0  # ids
        self._reading = threading.RLock()
        self._is_read = self._is_cancelled = False
        self._told = 0  # of the prompt's ids, to `progress`
        self._seen: State = NOTHING
        self._cancel = finalize(self, worker.cancel, handle)
        self._cancel.atexit = False

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        while True:
            piece, state = self._poll()
            if piece:
                return piece
            if state.finish or self._is_cancelled:
                raise StopIteration
            self._guard(lambda state=state: self._handle.wait(state))  # type: ignore[misc]

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        from elm_mlx.api.asynchronous import wait_for_news  # here, as asyncio takes long to import

        while True:
            piece, state = self._poll()
            if piece:
                return piece
            if state.finish or self._is_cancelled:
                raise StopAsyncIteration
            await self._guarded(wait_for_news(self._handle, state))

    def ready(self) -> Iterator[Piece]:
        """Gives the pieces that have come since the last look, without waiting. Raises the error that ended the answer
        after the last of them, once, and Forked."""
        while True:
            piece, self._seen = self._poll()
            if piece is None:
                return
            yield piece

    @property
    def is_over(self) -> bool:
        """Whether the last look by `ready` has found the end of the answer."""
        return self._is_cancelled or self._seen.finish is not None

    @property
    def seen(self) -> tuple[Handle, State]:
        """What the last look by `ready` has found, for `elm_mlx.api.asynchronous.Bell`."""
        return self._handle, self._seen

    async def prepared(self) -> None:
        """Waits until the form of the answer is compiled, if it has one, and raises what is wrong with it: for who must
        tell that before an answer begins."""
        form = self._handle.request.constraint
        if isinstance(form, Structure):
            import asyncio  # here, as it takes long to import

            await asyncio.wrap_future(form.compiled)
            form()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def result(self, timeout: float | None = None) -> Completion:
        """Waits for the end of the answer, at most `timeout` seconds, and returns all of it, what was read before
        included.

        Raises Cancelled where it was cancelled, and TimedOut where the time is over, which cancels it: both have the
        `completion` so far. Raises the error that ended the answer, if one did; InvalidRequest for a timeout without a
        meaning, Forked.
        """
        if timeout is not None and not real_number("timeout", timeout) >= 0:
            raise InvalidRequest(f"timeout is {timeout}; it must be 0 or above, in seconds.")
        self._lift_bound()
        limit = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        self._guard(lambda: self._handle.wait(None, limit))
        if self._handle.state.finish is None:
            if self._is_cancelled:
                raise Cancelled("The request was cancelled before its end.", completion=self._all())
            self.cancel()
            advice = "Give a longer {timeout}, or fewer {max_tokens}."
            raise TimedOut(f"The answer was not finished after {timeout:g} s.", advice, completion=self._all())
        return self._finished()

    async def aresult(self) -> Completion:
        """Waits for the end of the answer as `result` does, without blocking the event loop. Cancelling the task
        cancels the answer; `asyncio.timeout` sets a time."""
        from elm_mlx.api.asynchronous import wait_for_news  # here, as asyncio takes long to import

        self._lift_bound()
        await self._guarded(wait_for_news(self._handle, None))
        return self._finished()

    def cancel(self) -> None:
        """Cancels the answer, from any thread: iteration ends at once, the computing within a step or a chunk of the
        prompt. What was read stays in `completion`."""
        self._is_cancelled = True
        self._cancel()  # once
        self._lm = None
        if not is_forked():  # there the lock may be one that a lost thread holds
            self._handle.tell()

    def close(self) -> None:
        """Cancels the answer as `cancel` does; for `with`, `contextlib.closing` and readers that stop early."""
        self.cancel()

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids that the model was asked to go on from."""
        return self._handle.request.prompt

    @property
    def judged(self) -> list[TokenLogprob]:
        """The log-probabilities of the prompt's ids but the first, and of the id after them, as far as they were read,
        where the request asks for them."""
        return self._handle.sequence.judged if self._handle.sequence else []

    @property
    def completion(self) -> Completion:
        """The answer as far as it was read; of a stream that nobody iterates over, as far as it has come."""
        if not self._is_read:
            return self._all()
        with self._reading:
            pieces = list(self._pieces)
            sequence, taken = self._handle.sequence, self._taken - bool(self._ready)
        reason, ended_by = (pieces[-1].finish_reason, pieces[-1].stop_reason) if pieces else (None, None)
        count = taken - isinstance(ended_by, int)
        tokens, logprobs = (sequence.ids[:count], sequence.logprobs[:count]) if sequence else ([], [])
        failed = ERROR if self._handle.state.finish == ERROR else CANCELLED
        said = said_in(pieces)
        stats = stats_of(self._handle, len(tokens))
        parsed = value_of(self._handle.request, said.text, reason, ended_by)
        notes = logprobs if self._notes else None
        return Completion(said.text, tokens, reason or failed, stats, ended_by, notes, parsed, *said[1:])

    def when_over(self, call: Callable[[], None]) -> None:
        """Has `call`, which must be quick and raise nothing, called once when the answer has ended: in the device
        thread, or here where it has ended already."""
        self._lift_bound()
        if not self._handle.enlist(CallWaiter(call), None):
            call()

    def _finished(self) -> Completion:
        """The whole answer, which has ended. Raises Cancelled, or the error that ended it."""
        if error := self._handle.error:
            raise again(error)
        whole = self._all()
        if whole.finish_reason == CANCELLED:
            raise Cancelled("The request was cancelled before its end.", completion=whole)
        self._is_read, self._lm = False, None  # from now on `completion` is all of it
        self._cancel.detach()
        return whole

    def _all(self) -> Completion:
        """The answer as far as it has come, read or not."""
        state, sequence = self._handle.state, self._handle.sequence
        ids = sequence.ids[: state.ids] if sequence else []
        ended_by = sequence.stop_reason if sequence and state.finish == STOP else None
        ended_by = None if ended_by == CALLED else ended_by
        tokens = ids[:-1] if isinstance(ended_by, int) else ids
        said = self._cut.said(tokens, is_whole=isinstance(ended_by, int))
        stats = stats_of(self._handle, len(tokens))
        logprobs = (sequence.logprobs[: len(tokens)] if sequence else []) if self._notes else None
        parsed = value_of(self._handle.request, said.text, state.finish, ended_by)
        return Completion(said.text, tokens, state.finish or CANCELLED, stats, ended_by, logprobs, parsed, *said[1:])

    def _poll(self) -> tuple[Piece | None, State]:
        """(the next piece if it has come, how far the answer is). Raises the error that ended the answer, Forked."""
        refuse_fork()
        if not self._is_read:
            self._is_read, self._handle.bound = True, OUTBOX
        state = self._handle.state
        self._tell(state)
        with self._reading:
            if self._is_cancelled or (piece := self._take()) is None:
                self._raise_once(state)
                return None, state
        return piece, state

    def _raise_once(self, state: State) -> None:
        """Raises the error that ended the answer, where iteration has not raised it yet."""
        if state.finish == ERROR and not self._is_cancelled and self._handle.error:
            self._is_cancelled = True
            raise again(self._handle.error)

    def _take(self) -> Piece | None:
        """Takes the next piece: one of an id that was taken, or of the next id in the outbox."""
        if not self._ready:
            self._take_id()
        if not self._ready:
            return None
        piece = self._ready.pop()
        self._pieces.append(piece)
        if piece.finish_reason:
            self._lm = None
            self._cancel.detach()
        return piece

    def _take_id(self) -> None:
        """Takes the next id out of the outbox, if there is one, and decodes it."""
        sequence, place = self._handle.sequence, self._taken
        if sequence is None or place == len(sequence.ids):
            return
        pieces = self._cut.take(sequence.ids[place], is_last=place + 1 == sequence.room)
        if self._notes:
            pieces[-1] = replace(pieces[-1], logprob=sequence.logprobs[place])
        self._ready = pieces[::-1]
        sequence.taken = self._taken = place + 1
        if len(sequence.ids) - sequence.taken == OUTBOX // 2:  # it may have paused; every pause comes down to this
            self._worker.resume()

    def _tell(self, state: State) -> None:
        """Tells the caller's `progress` what of the prompt was read since it was told last."""
        if self._progress and state.read > self._told:
            self._told = state.read
            progress, total = self._progress, len(self._handle.request.prompt)
            self._guard(lambda: progress(state.read, total))

    def _guard(self, work: Callable[[], object]) -> None:
        """Runs what may be interrupted, which cancels the answer: nobody is left who reads it."""
        try:
            work()
        except BaseException:
            self.cancel()
            raise

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Awaits what may be interrupted, as `_guard` does."""
        try:
            await work
        except BaseException:
            self.cancel()
            raise

    def _lift_bound(self) -> None:
        """Lets the answer go on however late its reader is."""
        if self._handle.bound is not None:
            self._handle.bound = None
            self._worker.resume()
