"""HTTP as bytes over a socket, so that a test can also send what no client would."""

from __future__ import annotations

import http.client
import json
import re
import socket
from contextlib import suppress
from typing import Any, NamedTuple

PATIENCE_S = 60  # until a server that says nothing counts as hanging, on a busy machine


class Answer(NamedTuple):
    """A response: its status, its headers by lower-case name, and its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(port: int, patience: float = PATIENCE_S) -> socket.socket:
    """An open connection to a server on this machine."""
    return socket.create_connection(("127.0.0.1", port), patience)


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """One well-formed request. A body that is neither bytes nor None is sent as JSON."""
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    kind = {} if body is None else {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, sent, kind | (headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def head(method: str, path: str, *lines: str, port: int, host: str | None = None) -> bytes:
    """The first bytes of a request that asks the server to close the connection after it."""
    start = (f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close", *lines)
    return "\r\n".join(start).encode("latin-1") + b"\r\n\r\n"


def post(path: str, body: bytes, *lines: str, port: int) -> bytes:
    """The bytes of a request with a JSON body."""
    length = f"Content-Length: {len(body)}"
    return head("POST", path, "Content-Type: application/json", length, *lines, port=port) + body


def exchange(port: int, *parts: bytes) -> bytes:
    """Sends bytes, whatever they are, and returns all that comes back until the server closes the connection. A
    server that closes it while it is still written to may take back what it has said: then nothing came."""
    with connect(port) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        return to_the_end(connection)


def to_the_end(connection: socket.socket) -> bytes:
    """What comes over a connection until it is closed."""
    came = bytearray()
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            came += part
    return bytes(came)


def statuses(came: bytes) -> list[int]:
    """The statuses of the responses in these bytes."""
    return [int(found) for found in re.findall(rb"(?:\A|\n|})HTTP/1\.1 (\d{3}) ", came)]
