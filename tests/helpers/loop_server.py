"""An ASGI app behind real sockets, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn

T = TypeVar("T")


class Running:
    """A server that runs: its port, and its event loop, in which `call` runs a coroutine."""

    def __init__(self, server: uvicorn.Server, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.server, self.loop, self.port = server, loop, port
        self.url = f"http://127.0.0.1:{port}"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


@contextmanager
def serving(make_app: Callable[[], Any]) -> Iterator[Running]:
    """Serves an app, which `make_app` makes in the server's loop, on a port of 127.0.0.1."""
    begun, found = threading.Event(), {}

    async def serve() -> None:
        config = uvicorn.Config(make_app(), port=0, http="h11", log_level="warning", lifespan="off", access_log=False)
        found["server"], found["loop"] = server, _ = uvicorn.Server(config), asyncio.get_running_loop()
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        found["port"] = server.servers[0].sockets[0].getsockname()[1]
        begun.set()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert begun.wait(20)
    try:
        yield Running(found["server"], found["loop"], found["port"])
    finally:
        found["server"].should_exit = True
        thread.join(20)
