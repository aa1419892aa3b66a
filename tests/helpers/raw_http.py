"""HTTP written by hand on a socket, as careless and hostile clients do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """A response: its status, its headers by names in small letters, and its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error of OpenAI's form in the body: it has all four keys, and nothing stands beside it."""
        told = json.loads(self.body)
        assert list(told) == ["error"]
        assert set(told["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = told["error"]
        return error


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A connection to a server on this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as one:
        yield one


def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """A request as bytes. In the names of headers _ stands for -; Host and, with a body, its length and type are added
    where they are not named."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    usual = {"host": "localhost"}
    if body is not None:
        usual |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in (usual | named).items())]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Sends one request, and reads its response."""
    with connected(port) as one:
        one.sendall(request(method, path, body, **headers))
        return read_answer(one)


def read_answer(one: socket.socket) -> Answer:
    """Reads one response, with a body of a known length or until the connection ends. An AssertionError where there is
    none."""
    raw = bytearray()
    while b"\r\n\r\n" not in raw:
        part = one.recv(65536)
        assert part, f"the connection ended after {bytes(raw[:200])!r}"
        raw += part
    head, _, body = bytes(raw).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split()[1])
    return Answer(status, headers, b"" if status in (204, 304) else read_body(one, headers, body))


def read_body(one: socket.socket, headers: dict[str, str], begun: bytes) -> bytes:
    """The body of a response, the beginning of which was read already."""
    length = int(headers["content-length"]) if "content-length" in headers else None
    body = begun
    while length is None or len(body) < length:
        part = one.recv(65536)
        if not part:
            break
        body += part
    return body


def read_to_end(one: socket.socket) -> bytes:
    """All that a server sends until it ends the connection; a reset counts as an end."""
    raw = b""
    try:
        while part := one.recv(65536):
            raw += part
    except ConnectionResetError:
        pass
    return raw
