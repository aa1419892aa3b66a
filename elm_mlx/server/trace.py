"""The outermost layer of the server: it gives every request a name and every response its headers, and logs it."""

from __future__ import annotations

import asyncio
import secrets
import time
from email.utils import formatdate
from typing import Any

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.asgi import App, Header, Message, Receive, Scope, Send, refuse
from elm_mlx.server.log import LEFT, Line, clean, log_request, log_unforeseen

FAILED = Refusal(500, "The server failed on this request; its log says why.", "server_error", "internal_error")


class Trace:
    """An ASGI app around another one. `scope["state"]` has the "request_id" of a request; what the app puts there as
    "prompt_tokens" and "completion_tokens" goes to the log. An error that the app lets through is told as a 500; where
    the response has begun already, uvicorn sees that it is not whole, and closes the connection."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there is no other kind: uvicorn is set up without them
            return
        traced = Traced(scope, receive, send)
        try:
            await self._app(scope, traced.receive, traced.send)
        except Exception as error:
            log_unforeseen(f"{traced.id} met an unexpected error.", error)
            if not traced.status:
                await refuse(scope, traced.send, FAILED)
        except asyncio.CancelledError:
            traced.is_left = not traced.is_whole
            raise
        finally:
            log_request(traced.line())


class Traced:
    """One request on its way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._begun = time.perf_counter()
        self.id = f"req_{secrets.token_hex(12)}"
        self.status, self.is_left, self.is_whole = 0, False, False
        scope.setdefault("state", {})["request_id"] = self.id

    async def receive(self) -> Message:
        """What the client sends; its leaving is noted."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.is_whole:
            self.is_left = True
        return message

    async def send(self, message: Message) -> None:
        """Sends to the client, with the headers that all responses have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            named = {name.lower() for name, _ in given}
            added = [(name, value) for name, value in self._headers() if name not in named]
            message = {**message, "headers": [*given, *added]}
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            self.is_whole = True
        await self._send(message)

    def _headers(self) -> list[Header]:
        date = formatdate(usegmt=True).encode()
        names = [(name, self.id.encode()) for name in (b"x-request-id", b"request-id")]  # OpenAI's word, Anthropic's
        return [(b"date", date), *names, (b"x-content-type-options", b"nosniff")]

    def line(self) -> Line:
        """What the log tells of the request."""
        scope: Any = self._scope
        status = LEFT if self.is_left or not self.status else self.status
        state = scope["state"]
        return Line(
            scope["method"], clean(scope["path"]), status, round(time.perf_counter() - self._begun, 6), self.id,
            state.get("prompt_tokens"), state.get("completion_tokens"),
        )  # fmt: skip
