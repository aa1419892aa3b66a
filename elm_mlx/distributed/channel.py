"""Messages between two ranks: JSON objects over one connection, each after its length, within bounds."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

from elm_mlx.errors import ElmError

Message = dict[str, Any]
LENGTH = struct.Struct(">I")
SHORT, LONG = 2**16, 2**28  # bytes of a message: of any rank's; of rank 0's, which may hold a prompt's ids
READ = 2**16  # bytes at a time


class Closed(ElmError):
    """The other end has closed the connection, or what it sends is no message."""


class Channel:
    """One connection. Any thread may send; one alone receives. A message of more than `most` bytes is not read, and
    ends the connection."""

    def __init__(self, connection: socket.socket, most: int = SHORT) -> None:
        self.socket, self.most = connection, most
        self._lock = threading.Lock()
        self._buffer = bytearray()
        connection.settimeout(None)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """The connection's number, for `select`."""
        return self.socket.fileno()

    def send(self, message: Message) -> None:
        """Sends a message; blocks while the other end is behind. Raises Closed."""
        with self._lock:
            self._send(packed(message))

    def send_if_free(self, message: Message, patience: float = 0.0) -> bool:
        """Sends a short message where that blocks no longer than `patience` seconds, and returns whether it did. A
        connection that is closed takes none."""
        if not self._lock.acquire(timeout=patience):
            return False
        try:
            if not select.select([], [self.socket], [], patience)[1]:
                return False
            self._send(packed(message))
        except (OSError, ValueError, Closed):
            return False
        finally:
            self._lock.release()
        return True

    def _send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Closed(f"The connection is closed: {error}.") from error

    def arrived(self) -> list[Message]:
        """The messages that are there, once `select` has found something to read. Raises Closed."""
        try:
            data = self.socket.recv(READ)
        except OSError as error:
            raise Closed(f"The connection is closed: {error}.") from error
        if not data:
            raise Closed("The connection is closed.")
        self._buffer += data
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> Message | None:
        """Takes the next whole message out of what has come. Raises Closed for what is none."""
        if len(self._buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer)
        if length > self.most:
            raise Closed("What comes is no message of a rank.")
        end = LENGTH.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return unpacked(data)

    def receive(self, until: float) -> Message | None:
        """Waits for one message until a time of `time.monotonic`; None where none came. Raises Closed. For one that is
        awaited alone; where a second one came with it, that is the last word."""
        while (left := until - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0] and (found := self.arrived()):
                return found[-1]
        return None

    def close(self) -> None:
        """Closes the connection; its other end sees that at once."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def packed(message: Message) -> bytes:
    """A message as bytes."""
    data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    return LENGTH.pack(len(data)) + data


def unpacked(data: bytes) -> Message:
    """The message in some bytes. Raises Closed for what is no JSON object."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Closed("What comes is no message of a rank.") from error
    if not isinstance(message, dict):
        raise Closed("What comes is no message of a rank.")
    return message
