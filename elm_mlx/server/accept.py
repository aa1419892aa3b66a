"""The connections of a server over uvicorn's protocol: taken from sockets, and ended in time when it is to stop.

uvicorn's own Server wakes up ten times a second, and has signals of its own; this one sleeps.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from elm_mlx.server.asgi import App
from elm_mlx.server.connection import connection_class
from elm_mlx.server.settings import Limits

LAST_WORDS_S = 2.0  # for requests that were ended to tell it


class Acceptor:
    """Takes the connections of sockets, and answers their requests with an ASGI app. It belongs to one event loop."""

    def __init__(self, app: App, limits: Limits) -> None:
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        self._limits = limits
        self._config = Config(
            app, http=connection_class(limits), ws="none", lifespan="off", interface="asgi3", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, date_header=False,
            timeout_keep_alive=int(limits.idle_s), h11_max_incomplete_event_size=limits.header_bytes,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []

    async def begin(self, sockets: list[socket.socket]) -> None:
        """Takes connections from now on."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._servers.append(await loop.create_server(self._connection, sock=one))

    def _connection(self) -> Any:
        return self._config.http_protocol_class(  # type: ignore[call-arg]
            config=self._config, server_state=self._state, app_state={}
        )

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return not self._state.tasks

    def stop_accepting(self) -> None:
        """Takes no connection any more, closes those that wait for a request, and lets the others end with the one that
        they are at."""
        for server in self._servers:
            server.close()
        for connection in [*self._state.connections]:
            if not connection.transport.is_closing():
                connection.shutdown()

    async def wait_until_idle(self, seconds: float) -> bool:
        """Waits for the running requests, so long at most; whether they are over."""
        if tasks := {*self._state.tasks}:
            await asyncio.wait(tasks, timeout=seconds)
        return self.is_idle

    async def end(self) -> None:
        """Ends the requests that still run, and closes all connections."""
        tasks = {*self._state.tasks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        for connection in [*self._state.connections]:
            connection.transport.close()
        for _ in range(20):  # until what was written is on its way
            if not self._state.connections:
                return
            await asyncio.sleep(0.05)
        for connection in [*self._state.connections]:
            connection.transport.abort()
        await asyncio.sleep(0)
