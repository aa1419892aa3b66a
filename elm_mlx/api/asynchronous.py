"""Waiting for answers in asyncio: event loops are woken by the device thread, each once a step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

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


class Bell:
    """What one task of an event loop waits by for news of any of several answers, or until somebody rings."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: LoopWaiter | None = None

    async def wait(self, known: Iterable[tuple[Handle, State]]) -> None:
        """Waits until an answer is further than the state in which it is known. Raises Forked."""
        await self._wait(known)

    async def rest(self, handles: Iterable[Handle], seconds: float) -> None:
        """Waits so long, or until an answer has ended. Meanwhile the device thread has nobody to wake. Raises
        Forked."""
        timer = self._loop.call_later(seconds, self.ring)
        try:
            await self._wait((handle, None) for handle in handles)
        finally:
            timer.cancel()

    def ring(self) -> None:
        """Ends the wait, if there is one; called in the loop's thread."""
        if self._waiter and not self._waiter.future.done():
            self._waiter.future.set_result(None)

    async def _wait(self, known: Iterable[tuple[Handle, State | None]]) -> None:
        """Waits for news of an answer, or for its end where its state is None."""
        refuse_fork()
        waiter = self._waiter = LoopWaiter(self._loop)
        enlisted = []
        try:
            for handle, state in known:
                if not handle.enlist(waiter, state):
                    return
                enlisted.append(handle)
            await waiter.future
        finally:
            for handle in enlisted:
                handle.dismiss(waiter)
