"""The body of a request, read whole and within bounds before anybody looks into it."""

from __future__ import annotations

import asyncio

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.asgi import App, Message, Receive, Scope, Send, header, refuse
from elm_mlx.server.settings import Limits

JSON = b"application/json"
WRONG_TYPE = Refusal(
    415, "The body must be JSON, sent as `Content-Type: application/json`.", code="unsupported_media_type"
)
SLOW = Refusal(408, "The body of the request did not come in time.", code="request_timeout")
BUSY = Refusal(503, "The server holds as many large requests as it can. Try again soon.", "overloaded_error",
               "overloaded", headers={"retry-after": "1"})  # fmt: skip


class Refused(Exception):
    """A body that is not read to its end."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Left(Exception):
    """The client went away before its body was whole."""


class Intake:
    """Reads bodies for the routes that take one. The bodies of all requests that run share `limits.bodies_bytes`."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    def around(self, app: App) -> App:
        """An ASGI app that gives `app` the whole body as one message."""

        async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
            await self._serve(app, scope, receive, send)

        return bounded

    async def _serve(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        parts: list[bytes] = []
        try:
            refusal = await self._take(scope, receive, parts)
            if refusal:
                await refuse(scope, send, refusal)
            else:
                await app(scope, replay(b"".join(parts), receive), send)
        except Left:
            return
        finally:
            self._held -= sum(map(len, parts))

    async def _take(self, scope: Scope, receive: Receive, parts: list[bytes]) -> Refusal | None:
        """Reads a body within its time into `parts`, or tells why it is not taken. Raises Left."""
        try:
            self._refuse_headers(scope)
            async with asyncio.timeout(self._limits.body_s):
                await self._read(receive, parts)
        except Refused as refused:
            return refused.refusal
        except TimeoutError:
            return SLOW
        return None

    def _refuse_headers(self, scope: Scope) -> None:
        """Raises Refused for a body whose headers say already that it is not taken."""
        kind = (header(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != JSON:
            raise Refused(WRONG_TYPE)
        if int(header(scope, b"content-length") or 0) > self._limits.body_bytes:
            raise Refused(too_large(self._limits))

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        """Reads a body to its end into `parts`. Raises Refused for one that has too many bytes, Left."""
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Left
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > self._limits.body_bytes:
                raise Refused(too_large(self._limits))
            if self._held + len(part) > self._limits.bodies_bytes:
                raise Refused(BUSY)
            self._held += len(part)
            parts.append(part)


def too_large(limits: Limits) -> Refusal:
    """The refusal of a body that is over its bound."""
    return Refusal(413, f"The body is over {limits.body_bytes:,} bytes. Send less.", code="request_too_large")


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, and then what else there is: that the client leaves."""
    left = [body]

    async def receive_again() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receive_again
