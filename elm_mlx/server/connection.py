"""One connection of a client: uvicorn's protocol over h11, held to bounds of time, bytes and number.

uvicorn bounds none of these: who sends headers a byte a minute, or takes no byte of an answer, keeps its connection.
"""

from __future__ import annotations

import logging
import sys
from asyncio import TimerHandle
from typing import Any

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.error_body import error_body
from elm_mlx.server.settings import Limits

log = logging.getLogger("elm_mlx.server")
MOST_AHEAD = 64 << 10  # bytes of further requests while one is answered
PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 501: "Not Implemented",
           503: "Service Unavailable", 505: "HTTP Version Not Supported"}  # fmt: skip
BAD = Refusal(400, "This is not an HTTP/1.1 request, or its headers are malformed.", code="invalid_http")
LARGE = Refusal(431, "The headers of the request are too large.", code="headers_too_large")
SLOW = Refusal(408, "The headers of the request did not come in time.", code="request_timeout")
FULL = Refusal(503, "The server has as many connections as it takes. Try again soon.", "overloaded_error", "overloaded",
               headers={"retry-after": "1"})  # fmt: skip


def connection_class(limits: Limits) -> type[Any]:
    """The protocol class for uvicorn whose connections keep within `limits`."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return type("BoundedConnection", (Bounded, H11Protocol), {"limits": limits})


class Bounded:
    """What connection_class puts before uvicorn's H11Protocol, whose attributes it uses."""

    limits: Limits
    conn: Any
    flow: Any
    loop: Any
    cycle: Any
    transport: Any
    connections: set[Any]
    timeout_keep_alive_task: TimerHandle | None
    _headers_timer: TimerHandle | None = None
    _write_timer: TimerHandle | None = None
    _linger_timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Takes the connection, or refuses it where there are too many."""
        is_full = len(self.connections) >= self.limits.connections
        super().connection_made(transport)  # type: ignore[misc]
        transport.set_write_buffer_limits(high=0)  # so that pause_writing tells of every byte that was not taken
        if is_full:
            self.close_with(FULL)
        else:
            self._headers_timer = self.loop.call_later(self.limits.header_s, self._headers_late)

    def connection_lost(self, error: Exception | None) -> None:
        """Ends the timers."""
        for timer in (self._headers_timer, self._write_timer, self._linger_timer, self.timeout_keep_alive_task):
            if timer:
                timer.cancel()
        super().connection_lost(error)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        """Reads what has come."""
        if self.transport.is_closing():
            return
        super().data_received(data)  # type: ignore[misc]
        self._look_at_headers()
        self._look_ahead()

    def _look_at_headers(self) -> None:
        """Lets the time of the headers run from their first byte to their last; or from the last byte of a request that
        was refused before it was whole, as uvicorn has ended the idle time by then."""
        import h11

        waits = self.conn.their_state is h11.IDLE
        if waits and not self._headers_timer:
            self._headers_timer = self.loop.call_later(self.limits.header_s, self._headers_late)
        elif self._headers_timer and not waits:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _look_ahead(self) -> None:
        """Goes on reading while a request is answered, as only who reads sees that a client leaves."""
        import h11

        if self.flow.read_paused and self.conn.their_state is h11.DONE:
            if len(self.conn.trailing_data[0]) > MOST_AHEAD:
                self.transport.abort()
            else:
                self.flow.resume_reading()

    def _headers_late(self) -> None:
        if self.conn.trailing_data[0]:
            self.close_with(SLOW)
        else:
            self.transport.close()

    def send_400_response(self, message: str) -> None:
        """Refuses what h11 cannot read; uvicorn calls this while it handles h11's error."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        self.close_with(LARGE if status == 431 else BAD)

    def close_with(self, refusal: Refusal) -> None:
        """Sends an error, unless a response has begun, and closes the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(raw_response(refusal))
        elif not self.cycle.response_started:
            self.cycle.response_started = self.cycle.response_complete = True
            self.transport.write(raw_response(refusal))
        self.transport.close()

    def pause_writing(self) -> None:
        """Hears that the client does not take what is sent; its time runs from now."""
        super().pause_writing()  # type: ignore[misc]
        if not self._write_timer:
            self._write_timer = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Hears that the client has taken all."""
        super().resume_writing()  # type: ignore[misc]
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def on_response_complete(self) -> None:
        """Waits for the next request, or a while for the rest of this one, which was refused before it was whole: a
        client reads its refusal only after it has sent all."""
        import h11

        super().on_response_complete()  # type: ignore[misc]
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(self.limits.linger_s, self._close_unless_read)

    def _close_unless_read(self) -> None:
        import h11

        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()


def raw_response(refusal: Refusal) -> bytes:
    """A whole response of HTTP/1.1 that tells an error and closes the connection, where there is no request to answer
    by other means."""
    body = error_body(refusal, "/")
    lines = [f"HTTP/1.1 {refusal.status} {PHRASES[refusal.status]}", "content-type: application/json",
             f"content-length: {len(body)}", "connection: close"]  # fmt: skip
    lines += [f"{name}: {value}" for name, value in refusal.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
