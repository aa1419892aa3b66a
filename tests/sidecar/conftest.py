"""A sidecar in this process, over pipes of its own, and lines to and from it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from elm_mlx.sidecar.models import Models, Wish
from elm_mlx.sidecar.process import serve

PATIENCE_S = 60.0


class Pipes:
    """A client's ends of the pipes of a sidecar that runs in a thread."""

    def __init__(self, wishes: tuple[Wish, ...] = ()) -> None:
        theirs_in, self.writing = os.pipe()
        self.reading, theirs_out = os.pipe()
        self.code: int | None = None
        self.lines = os.fdopen(self.reading, "rb")
        self.numbers = iter(range(1, 10_000))
        self.seen: list[dict[str, Any]] = []  # notifications and requests on the way to a response

        def work() -> None:
            self.code = asyncio.run(serve(Models(wishes), theirs_in, theirs_out))
            os.close(theirs_in)
            os.close(theirs_out)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def write(self, raw: bytes) -> None:
        rest = memoryview(raw)
        while rest:
            rest = rest[os.write(self.writing, rest) :]

    def send(self, **message: Any) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def begin(self, method: str, **params: Any) -> int:
        number = next(self.numbers)
        self.send(id=number, method=method, params=params)
        return number

    def read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.lines.readline())
        assert message.pop("jsonrpc") == "2.0"
        return message

    def answer(self, number: int | None) -> dict[str, Any]:
        """The response with this id; what comes before it goes into `seen`."""
        while (message := self.read()).get("id") != number or "method" in message:
            self.seen.append(message)
        return message

    def call(self, method: str, **params: Any) -> Any:
        answer = self.answer(self.begin(method, **params))
        assert "error" not in answer, answer
        return answer["result"]

    def refusal(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self.answer(self.begin(method, **params))
        assert "result" not in answer, answer
        error: dict[str, Any] = answer["error"]
        return error

    def notes(self, method: str) -> list[dict[str, Any]]:
        return [one["params"] for one in self.seen if one.get("method") == method]

    def end(self) -> int | None:
        """Closes the client's ends, and returns the code with which the sidecar ended."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        return self.code


@pytest.fixture
def open_pipes() -> Iterator[Callable[..., Pipes]]:
    """Begins sidecars that are introduced, and ends them."""
    begun: list[Pipes] = []

    def begin(*wishes: Wish, introduce: bool = True) -> Pipes:
        begun.append(Pipes(wishes))
        if introduce:
            begun[-1].call("initialize", protocolVersion=1)
        return begun[-1]

    yield begin
    for one in begun:
        one.end()
        one.lines.close()


@pytest.fixture
def pipes(open_pipes: Callable[..., Pipes]) -> Pipes:
    return open_pipes()


@pytest.fixture(scope="module")
def talker() -> Iterator[Pipes]:
    """A sidecar for a module, whose demo has a chat template."""
    one = Pipes((Wish(chat_template="zephyr"),))
    one.call("initialize", protocolVersion=1)
    yield one
    one.end()
    one.lines.close()
