"""Waiting for answers in asyncio: event loops are woken by the device thread, each once a step."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from elm_mlx.device.thread import refuse_fork
from elm_mlx.engine.handle import Handle, State, Wake


class LoopWaiter:
    """A task of an event loop that waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, for_end: bool) -> None:
        self.for_end = for_end
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> Wake:
        """What wakes the task, together with others of its loop."""
        return Wake(self.future.get_loop(), self.future, settle_soon)


def settle_soon(loop: Any, futures: list[Any]) -> None:
    """Ends the waits of these futures, from another thread than their loop's."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(settle, futures)


def settle(futures: list[asyncio.Future[None]]) -> None:
    """Ends the waits that were not cancelled meanwhile."""
    for future in futures:
        if not future.done():
            future.set_result(None)


async def wait_for_news(handle: Handle, known: State | None) -> None:
    """Waits until an answer is further than `known` (None: until its end). Raises Forked."""
    refuse_fork()
    waiter = LoopWaiter(asyncio.get_running_loop(), for_end=known is None)
    if handle.enlist(waiter, known):
        try:
            await waiter.future
        finally:
            handle.dismiss(waiter)
