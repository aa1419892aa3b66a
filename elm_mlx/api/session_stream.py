"""The answer of a session while it comes: pieces of all rounds of a turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from elm_mlx.api.completion import Completion, Piece
from elm_mlx.api.session_turn import Turn


class SessionStream:
    """An iterator, and an async iterator, over the Pieces of a turn. Between two rounds it runs the calls that the
    model has made, in the reader's thread or event loop.

    The turn is added to the session's transcript with its last piece. Where the stream is closed before, or its reader
    is interrupted, or nobody holds it any more, the transcript stays as it was. One thread or task may read it.
    """

    def __init__(self, turn: Turn, finish: Callable[[Turn], None], keep: Callable[[Turn], None]) -> None:
        """Reads a turn that has begun; `finish` is told when it is over, whichever way, and `keep` that one which was
        cancelled shall stay."""
        self._turn, self._finish, self._keep = turn, finish, keep
        self._texts: list[str] = []

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        turn = self._turn
        with self._finishing():
            while not turn.is_over:
                if turn.has_calls:
                    turn.run_calls()
                elif piece := self._taken(next(turn.stream, None)):
                    return piece
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        turn = self._turn
        with self._finishing():
            while not turn.is_over:
                if turn.has_calls:
                    await turn.arun_calls()
                elif piece := self._taken(await anext(turn.stream, None)):
                    return piece
        raise StopAsyncIteration

    def __enter__(self) -> SessionStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the turn, from any thread, unless it is over."""
        self._turn.cancel()
        self._finish(self._turn)

    cancel = close

    def keep(self) -> None:
        """Cancels the turn, from any thread, and adds what came to the transcript as the answer; of a turn that is over
        and in the transcript, nothing changes. Raises InvalidRequest where the transcript has changed meanwhile,
        ConcurrentRequests where the session answers another one."""
        self.close()
        if not self._turn.is_whole:
            self._keep(self._turn)

    @property
    def completion(self) -> Completion:
        """The answer of the last round, as far as it was read."""
        return self._turn.stream.completion

    @property
    def text_so_far(self) -> str:
        """The text of all pieces so far, without reasoning and calls: what Apple's streams call a snapshot."""
        return "".join(self._texts)

    @contextmanager
    def _finishing(self) -> Iterator[None]:
        """Tells the session where the turn is over after what is done in it, which may raise."""
        try:
            with self._turn.guard():
                yield
        finally:
            if self._turn.is_over:
                self._finish(self._turn)

    def _taken(self, piece: Piece | None) -> Piece | None:
        """Notes a piece; with the last one of a round (None: it was cancelled) the turn reads what was said."""
        if piece and piece.kind == "text":
            self._texts.append(piece.text)
        if piece is None or piece.finish_reason:
            self._turn.read(self._turn.stream.completion)
        return piece
