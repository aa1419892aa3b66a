"""Waiting for answers in asyncio: event loops are woken by the device thread, each once a step."""

from __future__ import annotations

import asyncio

from elm_mlx.device.thread import refuse_fork
from elm_mlx.engine.handle import Handle, State, Wakes


class LoopWaiter:
    """A task of an event loop that waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.future = loop, loop.create_future()

    def wake(self, wakes: Wakes) -> None:
        """Has the task be woken together with others of its loop."""
        wakes.loops.setdefault(self._loop, []).append(self.future)


async def wait_for_news(handle: Handle, known: State | None) -> None:
    """Waits until an answer is further than `known` (None: until its end). Raises Forked."""
    refuse_fork()
    waiter = LoopWaiter(asyncio.get_running_loop())
    if handle.enlist(waiter, known):
        try:
            await waiter.future
        finally:
            handle.dismiss(waiter)
