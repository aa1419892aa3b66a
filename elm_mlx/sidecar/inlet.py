"""Reads lines from the client in a thread, one at a time: the next is read when the last one was taken."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import select
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from elm_mlx.sidecar.lines import Lines

CHUNK = 2**16  # bytes
LOOK_S = 0.5  # while a line waits to be taken, how often to look whether the client is still there

Take = Callable[[bytes | None], Coroutine[Any, Any, None]]


def start_reading(fd: int, take: Take, ended: Callable[[], None]) -> None:
    """Reads a file descriptor to its end in a thread of its own. In the running event loop, `take` is awaited with each
    line (None: one that was too long), and `ended` called where the client has closed its side, also where lines before
    that are not taken yet."""
    loop = asyncio.get_running_loop()

    def work() -> None:
        with suppress(RuntimeError):  # the loop has ended
            with suppress(OSError):
                hand_over(fd, take, loop)
            loop.call_soon_threadsafe(ended)

    threading.Thread(target=work, name="elm-mlx stdin", daemon=True).start()


def hand_over(fd: int, take: Take, loop: asyncio.AbstractEventLoop) -> None:
    """Hands over each line that comes, until the end. Raises OSError, RuntimeError where the loop has ended."""
    lines = Lines()
    while chunk := os.read(fd, CHUNK):
        for line in lines.feed(chunk):
            taking = asyncio.run_coroutine_threadsafe(take(line), loop)
            while not concurrent.futures.wait({taking}, LOOK_S).done:
                if is_hung_up(fd):
                    return


def is_hung_up(fd: int) -> bool:
    """Whether nobody can write to the other end of a pipe any more, although there may be bytes to read."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
