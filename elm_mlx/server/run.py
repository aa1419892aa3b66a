"""A server from its start to its end: sockets, models, signals, the ready line, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from elm_mlx.errors import EngineStopped, NotFound
from elm_mlx.server.listen import listening, url_of
from elm_mlx.server.open_files import allow_connections
from elm_mlx.server.settings import Settings

log = logging.getLogger("elm_mlx.server")
# Exit codes: the shell's convention for a process that a signal ended.
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LAST_S = 8.0  # after the requests' time, until the process ends whatever still hangs
NO_EXTRA = ("A server needs a few more packages. Install them with their extra: pip install 'elm-mlx[serve]'; from a "
            "checkout: pip install -e '.[serve]'.")  # fmt: skip


class Ready(NamedTuple):
    """What a server tells when it answers: its address, where it listens in all, and its models' names."""

    url: str
    port: int | None
    pid: int
    models: list[str]


def serve(settings: Settings, announce: Callable[[Ready], None]) -> int:
    """Serves until a signal or a model that cannot go on ends it; returns the exit code.

    `announce` is called once, when requests are answered. Raises NotFound without the extra `serve`, InvalidRequest for
    settings that cannot be, AddressInUse, and as `elm_mlx.load`; EngineStopped where the model died for good.
    """
    settings.check()
    if missing := [name for name in ("uvicorn", "h11", "starlette") if find_spec(name) is None]:
        raise NotFound(f"{NO_EXTRA} Not installed: {', '.join(missing)}.")
    allow_connections(settings.limits.connections)
    with listening(settings) as sockets:
        return asyncio.run(Service(settings, announce, end_now=lambda code: end_now(settings, code)).run(sockets))


def end_now(settings: Settings, code: int) -> None:
    """Ends the process without waiting for anything: a model may be loading in a thread that nothing interrupts."""
    if settings.uds:
        with suppress(OSError):
            Path(settings.uds).unlink()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


class Service:
    """One server in one event loop. `stop` ends it in good order; `end_now` is called for a second wish to end."""

    def __init__(
        self, settings: Settings, announce: Callable[[Ready], None], end_now: Callable[[int], None] = lambda code: None
    ) -> None:
        self._settings, self._announce, self._end_now = settings, announce, end_now
        self._stopping = asyncio.Event()
        self._code = 0
        self._is_ready = False
        self.house: Any = None  # what the routes share, once it runs

    def stop(self, code: int = 0) -> None:
        """Ends the server: running requests may end first. Before it is ready, or for the second time, at once."""
        if self._stopping.is_set() or not self._is_ready:
            self._end_now(code)
        self._code = code
        self._stopping.set()

    async def run(self, sockets: list[socket.socket]) -> int:
        """Serves on sockets that listen, until `stop`; returns its code. Raises as `serve`."""
        from elm_mlx.server.house import House

        with signals_to(self.stop):
            house = self.house = House(self._settings)
            try:
                _, acceptor = await asyncio.gather(house.open(), self._acceptor(house))
                await acceptor.begin(sockets)
                self._is_ready = True
                self._announce(ready(sockets, house))
                await first_of(self._stopping, house.fatal)
                with self._at_last(house):
                    await self._drain(acceptor, house)
                    await house.close()
            finally:
                await house.close()
            if house.fatal.is_set():
                raise EngineStopped(f"The server ends, because its model cannot go on. {house.why}")
        return self._code

    async def _acceptor(self, house: Any) -> Any:
        """What takes the connections, made beside the loading of the model: importing uvicorn takes time."""
        await asyncio.sleep(0.001)  # the model begins to load, in another thread
        return await asyncio.to_thread(make_acceptor, self._settings, house)

    @contextmanager
    def _at_last(self, house: Any) -> Iterator[None]:
        """Ends the process where its end takes too long: a device that hangs lets no model be closed."""
        code = EngineStopped.exit_code if house.fatal.is_set() else self._code
        last = threading.Timer(self._settings.limits.drain_s + LAST_S, self._end_now, (code,))
        last.daemon = True
        last.start()
        try:
            yield
        finally:
            last.cancel()

    async def _drain(self, acceptor: Any, house: Any) -> None:
        """Lets running requests end for a while. The rest then ends with an error, as the models are closed."""
        acceptor.stop_accepting()
        if not await acceptor.wait_until_idle(0 if house.fatal.is_set() else self._settings.limits.drain_s):
            log.warning("Requests that did not end in time are cancelled.")
            await house.close()
            await acceptor.wait_until_idle(1.0)
        await acceptor.end()


def make_acceptor(settings: Settings, house: Any) -> Any:
    """What takes the connections of a server."""
    from elm_mlx.server.accept import Acceptor
    from elm_mlx.server.app import make_app

    return Acceptor(make_app(settings, house), settings.limits)


async def first_of(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


@contextmanager
def signals_to(stop: Callable[[int], None]) -> Iterator[None]:
    """Calls `stop` with the exit code of a signal that ends a process. A signal that is ignored stays so (nohup)."""
    loop, before = asyncio.get_running_loop(), {}
    for number, code in SIGNALS.items():
        if (usual := signal.getsignal(number)) != signal.SIG_IGN:
            with suppress(ValueError, RuntimeError):  # a thread other than the main one gets no signals
                loop.add_signal_handler(number, stop, code)
                before[number] = usual
    try:
        yield
    finally:
        for number, usual in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, usual)


def ready(sockets: list[socket.socket], house: Any) -> Ready:
    """What is told of a server that answers."""
    first = sockets[0]
    port = None if first.family == socket.AF_UNIX else first.getsockname()[1]
    return Ready(url_of(first), port, os.getpid(), names_of(house))


def names_of(house: Any) -> list[str]:
    """The names of the models that were named at the start."""
    shelf = getattr(house, "shelf", None)
    return list(shelf.names) if shelf else ["demo"]
