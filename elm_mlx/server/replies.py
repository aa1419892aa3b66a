"""Responses that are ready when they begin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from elm_mlx.server.sending import Header, Send, send_body, send_json

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class Reply:
    """An ASGI app that sends an object as JSON."""

    def __init__(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.body, self.status = body, status
        self._headers: list[Header] = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await send_json(send, self.status, self.body, self._headers)


class TextReply:
    """An ASGI app that sends a text."""

    def __init__(self, text: str, kind: str) -> None:
        self.text, self._kind = text, kind

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await send_body(send, 200, self.text.encode(), [(b"content-type", self._kind.encode())])
