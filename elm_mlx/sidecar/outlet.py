"""Writes lines to the client from one thread. A client that does not read makes senders wait, and costs no memory."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

MOST_BYTES = 2**20  # that may wait to be written


class Outlet:
    """The way to the client. Its methods are called in the event loop that it was made in."""

    def __init__(self, fd: int, lost: Callable[[], None], most: int = MOST_BYTES) -> None:
        """Writes to a file descriptor; `lost` is called in the loop once nobody reads there any more."""
        self._fd, self._lost, self._most = fd, lost, most
        self._loop = asyncio.get_running_loop()
        self._bytes = 0  # that wait to be written
        self._waiting: list[asyncio.Future[None]] = []
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._write, name="elm-mlx stdout", daemon=True).start()

    async def send(self, line: bytes) -> None:
        """Has a line written, after the lines that were sent before; waits as long as too much is to be written."""
        while self._bytes >= self._most:
            await self._news()
        self._put(line)

    def offer(self, line: bytes) -> None:
        """Has a line written that may be lost where too much is to be written."""
        if self._bytes < self._most:
            self._put(line)

    async def flush(self) -> None:
        """Waits until all is written."""
        while self._bytes:
            await self._news()

    def close(self) -> None:
        """Ends the thread, once it has written what was sent."""
        self._lines.put(b"")

    def _put(self, line: bytes) -> None:
        self._bytes += len(line)
        self._lines.put(line)

    async def _news(self) -> None:
        """Waits until something was written."""
        future = self._loop.create_future()
        self._waiting.append(future)
        await future

    def _written(self, count: int) -> None:
        self._bytes -= count
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _write(self) -> None:
        """Writes line by line, in the thread; what cannot be written any more is dropped."""
        is_lost = False
        while line := self._lines.get():
            with suppress(RuntimeError):  # the loop has ended
                try:
                    if not is_lost:
                        write_all(self._fd, line)
                except OSError:
                    is_lost = True
                    self._loop.call_soon_threadsafe(self._lost)
                self._loop.call_soon_threadsafe(self._written, len(line))


def write_all(fd: int, line: bytes) -> None:
    """Writes all of a line. Raises OSError."""
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(fd, rest) :]
