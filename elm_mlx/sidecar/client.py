"""The client of a sidecar: its requests, each a task, and ours to it."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from elm_mlx.errors import Cancelled, ElmError, QueueFull
from elm_mlx.sidecar.failure import failure_of
from elm_mlx.sidecar.message import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    BadMessage,
    Id,
    RpcNotification,
    RpcRequest,
    RpcResponse,
    error_line,
    notification_line,
    read_message,
    request_line,
    result_line,
    too_long,
)

MOST_REQUESTS = 64  # of the client's under way, those with an answer that is not written yet included
CANCEL = "$/cancel"


class Way(Protocol):
    """How lines get to the client: an Outlet."""

    async def send(self, line: bytes) -> None:
        """Sends a line, and waits where too much is on the way."""
        ...

    def offer(self, line: bytes) -> None:
        """Sends a line, or drops it where too much is on the way."""
        ...


class ClientError(Exception):
    """The client refused a request of ours, with this message."""


@dataclass
class Asked:
    """A request of the client's under way, as its method sees it. `is_over` once its answer is certain: from then on
    it cannot be cancelled."""

    client: Client
    id: Id
    task: asyncio.Task[None] | None = None
    has_begun: bool = False
    is_cancelled: bool = False
    is_over: bool = False

    def cancel(self) -> None:
        """Has the request end, unless it is over. A task that has not begun is not cancelled: it would never answer."""
        self.is_cancelled = True
        if self.task and self.has_begun and not self.is_over:
            self.task.cancel()

    def begin(self) -> None:
        """Notes that the task runs. Raises CancelledError where the request was cancelled before."""
        self.has_begun = True
        if self.is_cancelled:
            raise asyncio.CancelledError

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Tells the client something about this request."""
        await self.client.way.send(notification_line(method, {"request": self.id, **params}))

    def mention(self, method: str, params: Mapping[str, Any]) -> None:
        """Tells the client something about this request that may be lost where the client reads slowly."""
        self.client.way.offer(notification_line(method, {"request": self.id, **params}))

    async def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """Asks the client something because of this request, and returns its result. Raises ClientError."""
        return await self.client.ask(method, {"request": self.id, **params})


Handler = Callable[[Mapping[str, Any], Asked], Awaitable[Any]]


class Client:
    """Takes the client's lines, and answers its requests by handlers. Everything happens in one event loop."""

    def __init__(self, way: Way, handler_of: Callable[[str], Handler | None]) -> None:
        """Answers through `way`; `handler_of` gives what answers a method, None where there is no such method."""
        self.way, self._handler_of = way, handler_of
        self._asked: dict[Id, Asked] = {}
        self._ours: dict[Id, asyncio.Future[Any]] = {}
        self._numbers = count(1)

    async def take(self, line: bytes | None) -> None:
        """Takes one line (None: it was too long). Requests are answered later; what is wrong is refused at once."""
        try:
            if line is None:
                raise too_long()
            match read_message(line):
                case RpcRequest() as request if len(self._asked) >= MOST_REQUESTS:
                    await self.way.send(error_line(request.id, failure_of(too_many())))
                case RpcRequest() as request:
                    self._begin(request)
                case RpcNotification() as notification:
                    self._note(notification)
                case RpcResponse() as response:
                    self._settle(response)
        except BadMessage as error:
            await self.way.send(error_line(error.id, {"code": error.code, "message": error.message}))

    async def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """The client's result for a request of ours; where nobody waits for it any more, the client is told so. Raises
        ClientError."""
        id = f"elm-mlx-{next(self._numbers)}"
        self._ours[id] = asyncio.get_running_loop().create_future()
        try:
            await self.way.send(request_line(id, method, params))
            return await self._ours[id]
        except asyncio.CancelledError:
            self.way.offer(notification_line(CANCEL, {"id": id}))
            raise
        finally:
            del self._ours[id]

    async def end(self) -> None:
        """Cancels all requests under way and waits until they are answered."""
        tasks = [asked.task for asked in self._asked.values() if asked.task]
        for asked in self._asked.values():
            asked.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel(self, id: object) -> None:
        """Cancels a request of the client's, if it is still under way."""
        if isinstance(id, str | int) and (asked := self._asked.get(id)):
            asked.cancel()

    @property
    def others(self) -> int:
        """How many requests are under way beside the one that asks."""
        return len(self._asked) - 1

    def _begin(self, request: RpcRequest) -> None:
        """Has a task answer a request. Raises BadMessage for one that is not taken."""
        if request.id in self._asked:
            raise BadMessage(INVALID_REQUEST, "A request with this id is under way.", request.id)
        asked = self._asked[request.id] = Asked(self, request.id)
        asked.task = asyncio.get_running_loop().create_task(self._answer(request, asked))

    async def _answer(self, request: RpcRequest, asked: Asked) -> None:
        line = await self._line(request, asked)
        try:
            await self.way.send(line)
        finally:
            del self._asked[request.id]

    async def _line(self, request: RpcRequest, asked: Asked) -> bytes:
        """The line that answers a request."""
        handler = self._handler_of(request.method)
        if not handler:
            return error_line(request.id, {"code": METHOD_NOT_FOUND, "message": unknown(request.method)})
        try:
            asked.begin()
            result = await handler(request.params, asked)
            asked.is_over = True
            return result_line(request.id, result)
        except asyncio.CancelledError:
            return error_line(request.id, failure_of(Cancelled("The request was cancelled before its end.")))
        except ElmError as error:
            return error_line(request.id, failure_of(error))
        except Exception as error:  # a mistake of ours ends one request, and no other
            traceback.print_exception(error, file=sys.stderr)
            return error_line(request.id, failure_of(error))
        finally:
            asked.is_over = True

    def _note(self, notification: RpcNotification) -> None:
        """Heeds a notification; one that is not known means nothing, as JSON-RPC has it."""
        if notification.method == CANCEL:
            self.cancel(notification.params.get("id"))

    def _settle(self, response: RpcResponse) -> None:
        """Gives the response to who waits for it; one that nobody waits for comes too late."""
        future = self._ours.get(response.id)
        if not future or future.done():
            return
        if response.error is None:
            future.set_result(response.result)
        else:
            future.set_exception(ClientError(str(response.error.get("message", "The call failed."))))


def unknown(method: str) -> str:
    """The sentence for a method that does not exist."""
    return f"There is no method {method[:80]!r}. The answer to initialize lists the methods."


def too_many() -> QueueFull:
    """Makes the error for a request beyond those that are taken at a time."""
    return QueueFull(f"{MOST_REQUESTS} requests are under way, as many as are taken at a time.",
                     "Wait for some of them to end.")  # fmt: skip
