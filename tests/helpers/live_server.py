"""A server that answers on a real socket: in this process, or in one of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers.command_line import PATIENCE_S, start

from elm_mlx.server.accept import Acceptor
from elm_mlx.server.asgi import App
from elm_mlx.server.listen import listening
from elm_mlx.server.run import Ready, Service
from elm_mlx.server.settings import Limits, Settings

LIMITS = Limits()


@dataclass
class LiveServer:
    """A server in this process: its `url` without a slash at the end, and its `port` on 127.0.0.1."""

    ready: Ready
    service: Service
    loop: asyncio.AbstractEventLoop

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

    async def run(announce: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        service = Service(asked, lambda ready: announce(LiveServer(ready, service, loop)))
        with listening(asked) as sockets:
            await service.run(sockets)

    with in_a_thread(run, lambda server: server.loop.call_soon_threadsafe(server.service.stop)) as server:
        yield server


@contextmanager
def live_app(app: App, limits: Limits = LIMITS) -> Iterator[int]:
    """An ASGI app behind the server's own connections, without models; the port on which it answers."""

    async def run(announce: Callable[[Any], None]) -> None:
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        acceptor = Acceptor(app, limits)
        with listening(Settings(port=0)) as sockets:
            await acceptor.begin(sockets)
            announce((sockets[0].getsockname()[1], partial(loop.call_soon_threadsafe, done.set)))
            await done.wait()
            acceptor.stop_accepting()
            await acceptor.end()

    with in_a_thread(run, lambda found: found[1]()) as found:
        yield found[0]


@contextmanager
def in_a_thread(
    run: Callable[[Callable[[Any], None]], Coroutine[Any, Any, None]], stop: Callable[[Any], object]
) -> Any:
    """Runs a coroutine in a loop and a thread of its own. It calls its argument with what is yielded here, and ends
    after `stop` was called with that. Raises what it raises."""
    told: list[Any] = []
    failed: list[BaseException] = []
    is_there = threading.Event()

    def body() -> None:
        try:
            asyncio.run(run(lambda value: (told.append(value), is_there.set())))  # type: ignore[func-returns-value]
        except BaseException as error:  # raised below, in the thread of the test
            failed.append(error)
        is_there.set()

    thread = threading.Thread(target=body, name="live server")
    thread.start()
    try:
        assert is_there.wait(PATIENCE_S)
        if told:
            yield told[0]
    finally:
        if told and thread.is_alive():
            with suppress(RuntimeError):  # its loop is closed: it has ended by itself meanwhile
                stop(told[0])
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


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
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        assert line, process.stderr.read().decode()
        yield ServerProcess(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()
