"""Answering one request, whole or as a stream, whatever API it is written in; it ends when its client goes away."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from elm_mlx.errors import Cancelled, ElmError
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Dialect, Event, Events, Facts, Named
from elm_mlx.protocols.json_object import parse_object
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.asgi import named
from elm_mlx.server.asking import streams_of
from elm_mlx.server.ignored import ignored_header
from elm_mlx.server.refusals import refusal_of
from elm_mlx.server.replies import App, Receive
from elm_mlx.server.scoring import scored_prompts
from elm_mlx.server.sending import EventWriter, Header, Send, lines_of, send_json

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.api.stream import Stream
    from elm_mlx.server.house import House
    from elm_mlx.server.shelf import Lease

LARGE = 1 << 16  # bytes of a body that is read in another thread
# Seconds between two writes of a stream: nobody sees the difference, and each takes time from the device thread, as
# Python runs one thread at a time. The first token, and the end, do not wait.
REST_S = 0.02


class HasBody(Protocol):
    """A request of Starlette's, as far as it is needed here."""

    async def body(self) -> bytes:
        """The bytes that came with it."""
        ...


async def answer(request: HasBody, dialect: Dialect, house: House) -> App:
    """Reads a request, whose body a middleware bounds, and returns what answers it: an ASGI app."""
    try:
        body, ask = await read_asked(request, dialect, strict=house.settings.strict)
    except Exception as error:  # whatever a stranger's bytes bring about
        return Refused(dialect, refusal_of(error))
    house.note_ignored(ask.ignored)
    return Answer(ask, body, dialect, house)


async def read_asked(request: HasBody, dialect: Dialect, *, strict: bool) -> tuple[dict[str, Any], Ask]:
    """The object that a request has as its body, and what it asks. Raises InvalidRequest."""
    raw = await request.body()

    def read() -> tuple[dict[str, Any], Ask]:
        body = parse_object(raw, "The body")
        return body, dialect.read(body, strict=strict)

    return await asyncio.to_thread(read) if len(raw) > LARGE else read()


class Refused:
    """An ASGI app that tells an error."""

    def __init__(self, dialect: Dialect, refusal: Refusal) -> None:
        self._dialect, self._refusal = dialect, refusal

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await send_refusal(send, self._dialect, named(self._refusal, scope))


async def send_refusal(send: Send, dialect: Dialect, refusal: Refusal, headers: list[Header] | None = None) -> None:
    """Sends an error as the whole response."""
    own = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    await send_json(send, refusal.status, dialect.refused(refusal), [*own, *(headers or [])])


class Answer:
    """An ASGI app that answers one request."""

    def __init__(self, ask: Ask, body: Mapping[str, Any], dialect: Dialect, house: House) -> None:
        self._ask, self._body, self._dialect, self._house = ask, body, dialect, house
        self._headers = ignored_header(ask.ignored)
        self._known: dict[str, Any] = {}  # what the log tells of this request
        self._begun_at = time.perf_counter()
        self._open: list[Stream] = []  # those of the model that are not over
        self._writer: EventWriter | None = None
        self._events: Events | None = None
        self._unsent: list[Event] = []  # of the stream
        self._scope: Any = {}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._known = scope.setdefault("state", {})
        self._scope = scope
        await while_there(self._answer(send), receive)

    async def _answer(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task
        if self._ask.streamed:
            self._writer = EventWriter(send, self._headers, task.cancel)
        try:
            await self._with_model(send)
        except Exception as error:  # it belongs to this request; the server lives on
            await self._refuse(send, error)
        finally:
            if self._writer:
                self._writer.close()

    async def _with_model(self, send: Send) -> None:
        shelf = self._house.shelf
        lease = shelf.take_now(self._ask.model) or await shelf.take(self._ask.model)
        try:
            await self._ask_model(lease, send)
            shelf.lives(lease)
        except ElmError:
            if stopped := lease.lm.activity.stopped:
                shelf.died(lease, stopped)
            raise
        finally:
            lease.give_back()

    async def _ask_model(self, lease: Lease, send: Send) -> None:
        scored = await scored_prompts(self._ask, lease.lm, lease.adapter)
        facts = Facts(secrets.token_hex(12), int(time.time()), lease.name, lease.lm, scored)
        streams = await streams_of(self._ask, lease.lm, lease.adapter)
        self._open = [*streams]
        try:
            if self._writer:
                await self._stream(streams, facts, self._writer)
            else:
                await self._wait(streams, facts, send)
        finally:
            self._give_up(lease.name)

    async def _wait(self, streams: list[Stream], facts: Facts, send: Send) -> None:
        """Sends all answers when they are there."""
        completions = [await stream.aresult() for stream in streams]
        for stream, done in zip(streams, completions, strict=True):
            self._count(facts.model, stream, done)
        body = self._dialect.whole(self._ask, self._body, facts, completions)
        await send_json(send, 200, body, self._headers)

    async def _stream(self, streams: list[Stream], facts: Facts, writer: EventWriter) -> None:
        """Sends the answers as they come: what is ready, at once and together."""
        from elm_mlx.api.asynchronous import Bell  # here, as it brings MLX

        for stream in streams:
            await stream.prepared()  # what is wrong with a form is told as a status
        events = self._events = self._dialect.events(self._ask, self._body, facts)
        await writer.write(lines_of(events.begin([len(stream.prompt) for stream in streams[:: self._ask.n]])))
        bell, going = Bell(), dict(enumerate(streams))
        done: dict[int, Completion] = {}
        while going:
            for index, stream in [*going.items()]:
                for piece in stream.ready():
                    self._unsent += events.piece(index, piece)
                if stream.is_over:
                    del going[index]
                    done[index] = whole(stream)
                    self._count(facts.model, stream, done[index])
                    self._unsent += events.answer_ended(index, done[index])
            if self._unsent and going:
                await self._write(writer)
                await bell.rest((stream.seen[0] for stream in going.values()), REST_S)
            if going:
                await bell.wait(stream.seen for stream in going.values())
        self._unsent += events.end([done[index] for index in range(len(streams))])
        await self._write(writer, is_last=True)

    async def _write(self, writer: EventWriter, *, is_last: bool = False) -> None:
        """Writes what is not sent yet."""
        news, self._unsent = self._unsent, []
        await writer.write(lines_of(news), is_last=is_last)

    def _give_up(self, model: str) -> None:
        """Cancels what is not over."""
        for stream in [*self._open]:
            stream.cancel()
            self._count(model, stream, stream.completion)

    def _count(self, model: str, stream: Stream, done: Completion) -> None:
        """Adds an answer that has ended to the figures."""
        self._open.remove(stream)
        self._known["prompt_tokens"] = self._known.get("prompt_tokens", 0) + done.stats.prompt_tokens
        self._known["completion_tokens"] = self._known.get("completion_tokens", 0) + done.stats.generated_tokens
        reason = "abort" if done.finish_reason == "cancelled" else done.finish_reason
        self._house.metrics.add(model, done.stats, reason, time.perf_counter() - self._begun_at)

    async def _refuse(self, send: Send, error: Exception) -> None:
        """Tells the client of an error: as a status where it has heard nothing yet, else as events."""
        refusal = named(self._house.refusal_of(error), self._scope)
        if not (self._writer and self._writer.has_begun):
            if self._writer:
                self._writer.close()
            await send_refusal(send, self._dialect, refusal, self._headers)
            return
        self._unsent += self._events.fail(refusal) if self._events else self._failed(refusal)
        await self._write(self._writer, is_last=True)

    def _failed(self, refusal: Refusal) -> list[Event]:
        """All events of a stream whose model was not there yet."""
        named = Named(secrets.token_hex(12), int(time.time()), str(self._ask.model or ""))
        return self._dialect.failed(self._body, named, refusal)


def whole(stream: Stream) -> Completion:
    """The completion of a stream that is over. Raises Cancelled where it did not come to its end."""
    done = stream.completion
    if done.finish_reason == "cancelled":
        raise Cancelled("The model was closed before the answer was complete. Ask again.", completion=done)
    return done


async def while_there(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Does the work of a request until the client goes away, which cancels it."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
    if not working.cancelled():
        working.result()


async def until_gone(receive: Receive) -> None:
    """Waits until the client has gone away, or has all of its response."""
    while (await receive())["type"] != "http.disconnect":
        pass
