"""The words of ASGI, the interface between a server and its apps (asgi.readthedocs.io, HTTP 2.3), and small answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import Any

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.error_body import error_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header of a request, by its name in small letters; None where there is none."""
    return next((value for key, value in scope["headers"] if key == name), None)


def named(refusal: Refusal, scope: Scope) -> Refusal:
    """A refusal with the name of the request that it answers, if that has one."""
    return replace(refusal, request_id=scope.get("state", {}).get("request_id"))


async def refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Sends an error as the whole response."""
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    body = error_body(named(refusal, scope), scope["path"])
    await respond(send, refusal.status, body, [(b"content-type", b"application/json"), *headers])


async def respond(send: Send, status: int, body: bytes, headers: Iterable[Header]) -> None:
    """Sends bytes as the whole response."""
    length = [] if status == 204 else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
