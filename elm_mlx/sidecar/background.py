"""Long work in a thread of its own, which an event loop waits for and can leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from elm_mlx.errors import Cancelled

T = TypeVar("T")


class Patience:
    """Whether anybody waits for some work: callbacks of the work ask it."""

    def __init__(self) -> None:
        self._is_over = threading.Event()

    def end(self) -> None:
        """Nobody waits any more."""
        self._is_over.set()

    def check(self) -> None:
        """Raises Cancelled where nobody waits any more, which ends the work."""
        if self._is_over.is_set():
            raise Cancelled("Loading was cancelled.")


async def in_background(work: Callable[[Patience], T]) -> T:
    """The result of `work`, which runs in a daemon thread: the end of the process does not wait for it. Cancelling the
    task leaves the work at once; it ends when it next asks its Patience, and what it makes all the same is dropped."""
    loop, patience = asyncio.get_running_loop(), Patience()
    future: asyncio.Future[T] = loop.create_future()

    def answer(settle: Callable[..., None], value: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if future.done() else settle(value))

    def run() -> None:
        try:
            answer(future.set_result, work(patience))
        except BaseException as error:  # whatever it is, it belongs to who waits
            answer(future.set_exception, error)

    threading.Thread(target=run, name="elm-mlx background", daemon=True).start()
    try:
        return await future
    finally:
        patience.end()
