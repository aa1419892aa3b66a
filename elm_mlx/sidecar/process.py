"""The process of a sidecar: its pipes, its event loop, and its end."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from elm_mlx.sidecar.client import Client
from elm_mlx.sidecar.ending import Ending
from elm_mlx.sidecar.inlet import start_reading
from elm_mlx.sidecar.methods import Methods
from elm_mlx.sidecar.models import Models, Wish, free
from elm_mlx.sidecar.outlet import Outlet

GONE = 141  # the exit code where the client reads no more
PATIENCE_S = 2.0  # for answers to be written at the end, and for models to be given back
MOST_S = 10.0  # until the process ends whatever still runs


def run(wishes: Sequence[Wish] = (), **sizes: Any) -> int:
    """Serves one client over standard input and output, until it asks for the end or leaves; returns the exit code: 0,
    141 where the client reads no more, 143 after SIGTERM. The models of `wishes` are loaded when they are first used;
    the first of them is the one for requests that name none, by default the demo. `sizes` are arguments of
    `elm_mlx.load` for all models that the client loads without them.

    Whatever else is written to standard output meanwhile goes to standard error. Raises InvalidRequest for two wishes
    of one name, QueueFull for too many.
    """
    with pipes() as (reading, writing):
        return asyncio.run(serve_last(Models(wishes, **sizes), reading, writing))


async def serve_last(models: Models, reading: int, writing: int) -> int:
    """Serves one client as `serve` does, and has the process end soon after that, also where a thread hangs: the event
    loop waits for its threads, and nobody is left who could end this process."""
    code = await serve(models, reading, writing)
    last = threading.Timer(MOST_S, os._exit, (code,))
    last.daemon = True
    last.start()
    return code


@contextmanager
def pipes() -> Iterator[tuple[int, int]]:
    """File descriptors of standard input and output for the protocol alone: meanwhile the usual ones are empty, and
    standard error."""
    sys.stdout.flush()
    reading, writing, nothing = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for fd in (reading, writing):
        os.set_blocking(fd, True)
    try:
        yield reading, writing
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os.dup2(reading, 0)
        os.dup2(writing, 1)


async def serve(models: Models, reading: int, writing: int) -> int:
    """Serves one client over two file descriptors until the end, and returns the exit code."""
    ending = Ending()
    outlet = Outlet(writing, lambda: ending.end(GONE))
    client = Client(outlet, Methods(models, ending).handler_of)
    ending.heed_signals()
    start_reading(reading, client.take, lambda: ending.end(0))
    code = await ending.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await client.end()
            await outlet.flush()
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            for held in list(models):
                await free(held)
    outlet.close()
    return code
