"""A server that answers on a real socket: in this process, or in one of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helpers.command_line import PATIENCE_S, start

from elm_mlx.server.listen import listening
from elm_mlx.server.run import Ready, Service
from elm_mlx.server.settings import Settings

QUICK_DRAIN_S = 0.5  # so that a test that leaves a request behind does not wait


@dataclass
class LiveServer:
    """A server in this process: its `url` without a slash at the end, and its `port` on 127.0.0.1."""

    ready: Ready
    service: Service

    @property
    def url(self) -> str:
        return self.ready.url

    @property
    def port(self) -> int:
        assert self.ready.port
        return self.ready.port


@contextmanager
def live_server(**settings: Any) -> Iterator[LiveServer]:
    """A server in a thread of this process, on a free port unless the settings say otherwise. It is gone afterwards."""
    asked = Settings(**{"port": 0, **settings})
    told: list[Any] = []
    is_there = threading.Event()

    def announce(ready: Ready) -> None:
        told.append(ready)
        is_there.set()

    async def run() -> None:
        service = Service(asked, announce)
        told.extend([asyncio.get_running_loop(), service])
        with listening(asked) as sockets:
            await service.run(sockets)

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # told to the test, which waits
            told.append(error)
        is_there.set()

    thread = threading.Thread(target=body, name="live server")
    thread.start()
    assert is_there.wait(PATIENCE_S)
    if isinstance(told[-1], BaseException):
        raise told[-1]
    loop, service, ready = told
    try:
        yield LiveServer(ready, service)
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(service.stop)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    if isinstance(told[-1], BaseException):
        raise told[-1]


@dataclass
class ServerProcess:
    """A server in a process of its own, and what its ready line says."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    @property
    def port(self) -> int:
        return int(self.ready["port"])

    def end(self, signal_number: int) -> tuple[int, str]:
        """Sends a signal, and waits: the exit code, and what stood on stderr."""
        self.process.send_signal(signal_number)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors.decode()


@contextmanager
def server_process(*arguments: object, **settings: Any) -> Iterator[ServerProcess]:
    """`elm-mlx serve --json` with these arguments, on a free port, in a process that is gone afterwards."""
    where = () if "--uds" in arguments or "--port" in arguments else ("--port", 0)
    process = start("serve", "--json", *where, *arguments, **settings)
    try:
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        assert line, process.stderr.read().decode()
        yield ServerProcess(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()
