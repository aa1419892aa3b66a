"""The sockets that a server listens on: of addresses, of a file, or those that systemd has opened for it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from elm_mlx.errors import AddressInUse, ElmError, InvalidRequest
from elm_mlx.server.holder import holder_of
from elm_mlx.server.settings import Settings
from elm_mlx.server.socket_file import listen_on_file, remove_own

BACKLOG = 512
LOOPBACK = ("127.0.0.1", "::1")
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
FIRST_FD = 3  # of the sockets that systemd hands over: sd_listen_fds(3)
TRIES = 20  # to find a port that is free in IPv4 and IPv6


@contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Opens the sockets that the settings ask for, which listen at once; closes them at the end, and removes the file
    of one.

    Raises AddressInUse where another process listens there, InvalidRequest for an address that this machine does not
    have, and as `listen_on_file`.
    """
    sockets = open_sockets(settings)
    inode = Path(settings.uds).lstat().st_ino if settings.uds else 0
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()
        if settings.uds:
            remove_own(settings.uds, inode)


def open_sockets(settings: Settings) -> list[socket.socket]:
    """The sockets that the settings ask for. Raises as `listening`."""
    if handed := inherited_sockets(os.environ):
        refuse_open(handed, settings)
        return handed
    if settings.uds is not None:
        return [listen_on_file(settings.uds, BACKLOG)]
    hosts = LOOPBACK if settings.host in (None, "localhost") else (settings.host or "",)
    for _ in range(TRIES):
        with contextlib.suppress(PortLost):
            return listen_on(hosts, settings.port)
    raise ElmError(f"No port was free in both IPv4 and IPv6; {TRIES} were tried.", "Name one as {port}.")


class PortLost(Exception):
    """A port that was free at one address is taken at the other."""


def listen_on(hosts: tuple[str, ...], port: int) -> list[socket.socket]:
    """Listens at one port of all `hosts` that this machine has; port 0 is one that is free at all of them."""
    opened: list[socket.socket] = []
    try:
        for host in hosts:
            number = opened[0].getsockname()[1] if opened and not port else port
            if one := listen_at(host, number, is_asked=bool(port) or not opened):
                opened.append(one)
        if not opened:
            raise InvalidRequest(f"This machine has no address {' or '.join(hosts)}.", "Name another {host}.")
        return opened
    except BaseException:
        for one in opened:
            one.close()
        raise


def listen_at(host: str, port: int, is_asked: bool) -> socket.socket | None:
    """Listens at one address; None where this machine does not have it. Raises PortLost for a port in use that nobody
    has asked for."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InvalidRequest(f"{host!r} is not an address: {error}.", "Name another {host}.") from error
    opened = None
    try:
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
        return opened
    except OSError as error:
        if opened:
            opened.close()
        if error.errno in NO_SUCH_ADDRESS:
            return None
        if error.errno == errno.EADDRINUSE and not is_asked:
            raise PortLost from error
        raise refusal(host, port, error) from error


def refusal(host: str, port: int, error: OSError) -> ElmError:
    """The error for an address that cannot be listened at."""
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f"Port {port} of {host} is in use by {holder_of(port)}.",
                            "Stop that, or take another {port}; {port=0} takes a free one.")  # fmt: skip
    if error.errno in (errno.EACCES, errno.EPERM):
        return InvalidRequest(f"This user may not listen at port {port}: {error.strerror}.",
                              "Take a {port} from 1024 on.")  # fmt: skip
    return ElmError(f"Listening at port {port} of {host} fails: {error.strerror}.", "Name another {host} or {port}.")


def refuse_open(handed: list[socket.socket], settings: Settings) -> None:
    """Raises InvalidRequest for a socket of an address beyond this machine, where clients need no key."""
    for one in handed:
        if one.family != socket.AF_UNIX:
            replace(settings, host=one.getsockname()[0], uds=None).check()


def inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd has opened for this process, or none. The variables that tell of them are taken out of
    the environment, as no child has these sockets.

    Source: sd_listen_fds(3): LISTEN_PID is the process that they are meant for, LISTEN_FDS how many there are.
    """
    count, owner = environment.get("LISTEN_FDS", ""), environment.get("LISTEN_PID", "")
    if owner != str(os.getpid()) or not count.isdecimal():
        return []
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    handed = [socket.socket(fileno=number) for number in range(FIRST_FD, FIRST_FD + int(count))]
    for one in handed:
        one.set_inheritable(False)
        one.setblocking(False)
    return handed


def url_of(opened: socket.socket) -> str:
    """The URL of a socket; that of a file as "unix:PATH"."""
    if opened.family == socket.AF_UNIX:
        return f"unix:{opened.getsockname()}"
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
