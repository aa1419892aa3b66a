"""Where the other ranks come in: rank 0 takes connections until each has said hello."""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress

from elm_mlx.distributed.channel import Channel, Closed
from elm_mlx.distributed.hello import Hello, NoHello, read_hello
from elm_mlx.distributed.hosts import Hosts
from elm_mlx.errors import AddressInUse

HELLO_S = 5.0  # that a connection has to say what it is
MOST_STRANGERS = 64  # connections that have not said it yet


class Reception:
    """Takes connections until every rank has said hello. What is none of them is sent away, and disturbs nobody."""

    def __init__(self, hosts: Hosts, job: str) -> None:
        self.hosts, self.job = hosts, job
        self.hellos: dict[int, Hello] = {}
        self.channels: dict[int, Channel] = {}
        self._unknown: dict[Channel, float] = {}  # until when each has time to say what it is
        self._selector = selectors.DefaultSelector()
        self._door = listen(hosts)
        self._selector.register(self._door, selectors.EVENT_READ)

    def wait(self, until: float) -> None:
        """Returns when all ranks are there, or the time is over, or one has ended."""
        while len(self.hellos) < self.hosts.ranks - 1 and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(min(left, 1.0)):
                if key.fileobj is self._door:
                    self._open()
                else:
                    self._hear(key.data)
            for channel in [one for one, end in self._unknown.items() if end < time.monotonic()]:
                self._send_away(channel, "")

    def _open(self) -> None:
        with suppress(OSError):
            connection, _ = self._door.accept()
            channel = Channel(connection)
            if len(self._unknown) >= MOST_STRANGERS:
                return channel.close()
            self._unknown[channel] = time.monotonic() + HELLO_S
            self._selector.register(connection, selectors.EVENT_READ, channel)

    def _hear(self, channel: Channel) -> None:
        try:
            messages = channel.arrived()
        except Closed:
            return self._lose(channel)
        if not messages or channel not in self._unknown:
            return
        try:
            hello = read_hello(messages[0], self.hosts, self.job)
            if hello.rank in self.hellos:
                raise NoHello(f"There is a rank {hello.rank} already.")
        except NoHello as error:
            return self._send_away(channel, str(error))
        del self._unknown[channel]
        self.hellos[hello.rank], self.channels[hello.rank] = hello, channel

    def _lose(self, channel: Channel) -> None:
        """A connection has closed. A rank may come again until all are there."""
        for rank in [rank for rank, one in self.channels.items() if one is channel]:
            del self.channels[rank], self.hellos[rank]
        self._send_away(channel, "")

    def _send_away(self, channel: Channel, why: str) -> None:
        self._unknown.pop(channel, None)
        self._selector.unregister(channel.socket)
        if why:
            channel.send_if_free({"refused": why})
        channel.close()

    def close(self) -> None:
        """Lets nobody in any more."""
        for channel in [*self._unknown]:
            self._send_away(channel, "")
        self._selector.close()
        self._door.close()


def listen(hosts: Hosts) -> socket.socket:
    """Listens for the other ranks. Raises AddressInUse."""
    host, port = hosts.control
    try:
        return socket.create_server((host, port), family=family_of(host), backlog=MOST_STRANGERS)
    except OSError as error:
        raise AddressInUse(
            f"Rank 0 cannot listen for the other ranks at {host}, port {port}: {error}.",
            "Begin with another port, and see that this is the machine of rank 0.",
        ) from error


def family_of(host: str) -> socket.AddressFamily:
    """The family of an IP address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
