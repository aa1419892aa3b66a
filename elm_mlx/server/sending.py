"""Writing an answer to a client: whole, or event by event with signs of life while there is nothing to tell.

Source of the format: WHATWG HTML, "Server-sent events". A comment is its only sign of life that no client takes for an
event.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from elm_mlx.protocols.dialect import Event

PATIENCE_S = 5.0  # until a stream begins that has nothing to tell: what fails before can still have a status of its own
SILENCE_S = 7.0  # until a sign of life: one comes at the latest after twice that; nginx closes after 60 s of silence
WRITE_PATIENCE_S = 30.0  # for a client that takes nothing: it holds a place among the rows
COMMENT = b": keep-alive\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def lines_of(events: Iterable[Event]) -> bytes:
    """Events as a stream has them."""
    lines = []
    for data, name in events:
        text = data if isinstance(data, str) else encode(data)
        lines.append(f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n")
    return "".join(lines).encode()


async def send_json(send: Send, status: int, body: Any, headers: Iterable[Header] = ()) -> None:
    """Sends an object as the whole response."""
    await send_body(send, status, encode(body).encode(), [(b"content-type", b"application/json"), *headers])


async def send_body(send: Send, status: int, body: bytes, headers: Iterable[Header]) -> None:
    """Sends bytes as the whole response."""
    listed = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class EventWriter:
    """The stream of one response. It begins with the first write; where there is none for PATIENCE_S, with a comment.

    `close` ends its signs of life. `give_up` is called where the client has taken nothing for WRITE_PATIENCE_S.
    """

    def __init__(self, send: Send, headers: Iterable[Header], give_up: Callable[[], object]) -> None:
        self._send, self._headers, self._give_up = send, [*STREAM_HEADERS, *headers], give_up
        self.has_begun = False
        self._loop = asyncio.get_running_loop()
        self._wrote_at = self._loop.time()
        self._writes_since: float | None = None
        self._comment: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(PATIENCE_S, self._tick)

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Writes bytes; after the last ones the response is over."""
        if self._comment:
            await self._comment
        await self._write(data, is_last)

    async def _write(self, data: bytes, is_last: bool = False) -> None:
        self._wrote_at = self._writes_since = self._loop.time()
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            data = COMMENT + data
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._writes_since = None

    def close(self) -> None:
        """Ends the signs of life."""
        self._timer.cancel()
        if self._comment:
            self._comment.cancel()

    def _tick(self) -> None:
        """Looks after the stream: it must not be silent for long, nor must its client."""
        now = self._loop.time()
        if self._writes_since is not None:
            if now - self._writes_since > WRITE_PATIENCE_S:
                self._give_up()
        elif not self.has_begun or now - self._wrote_at >= SILENCE_S:
            self._comment = self._loop.create_task(self._sign_of_life())
        self._timer = self._loop.call_later(SILENCE_S, self._tick)

    async def _sign_of_life(self) -> None:
        try:
            await self._write(b"" if not self.has_begun else COMMENT)
        finally:
            self._comment = None
