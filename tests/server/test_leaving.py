"""A client that goes away ends its request wherever it is, and one that takes nothing holds up nobody for long."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from helpers import plain_dialect
from helpers.live_house import USUAL, Live, eventually, living

from elm_mlx.engine.judged_reading import JudgedReading
from elm_mlx.protocols.ask import Ask
from elm_mlx.server import sending
from elm_mlx.server.answer import Answer
from elm_mlx.server.house import House
from elm_mlx.server.scoring import scored_prompts
from elm_mlx.text import grammar

# It does not end by itself: where it ends, it was cancelled.
ENDLESS = {"prompt": "Once upon a time", "max_tokens": 10**6, "options": {"banned_ids": [2], "window": 64}}


@contextmanager
def asking_for(live: Live, **body: Any) -> Iterator[socket.socket]:
    """A connection on which a request was sent; it is cut at the end of the block."""
    raw = json.dumps(body).encode()
    head = f"POST /ask HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", live.running.port)) as connection:
        connection.sendall(head + raw)
        yield connection


def aborted(live: Live) -> int:
    """How many answers ended because their client went away."""
    return sum(figures.ended["abort"] for figures in live.house.metrics.models.values())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_running_request_ends_with_its_client(live: Live, streamed: bool) -> None:
    before = aborted(live)
    with asking_for(live, **ENDLESS, stream=streamed):
        assert eventually(lambda: live.lm.activity.running == 1)
    assert eventually(live.is_idle)
    assert eventually(lambda: aborted(live) == before + 1)
    assert live.house.shelf.books["demo"].users == 0


def test_a_queued_request_ends_with_its_client() -> None:
    with living(concurrency=1) as live, asking_for(live, **ENDLESS):
        assert eventually(lambda: live.lm.activity.running == 1)
        with asking_for(live, **ENDLESS):
            assert eventually(lambda: live.lm.activity.waiting == 1)
        assert eventually(lambda: live.lm.activity.waiting == 0)
        assert live.lm.activity.running == 1


def test_a_request_that_finds_the_queue_full_is_told_when_to_come_again() -> None:
    with living(concurrency=1, max_queue=1) as live, asking_for(live, **ENDLESS), asking_for(live, **ENDLESS):
        assert eventually(lambda: sum(live.lm.activity[:2]) == 2)
        response = live.post(prompt="Hi")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(response.headers["retry-after"]) <= 120


def test_a_request_whose_form_is_compiled_ends_with_its_client(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    may, entered, usual = threading.Event(), threading.Event(), grammar.call_within

    def held(seconds: float, call: Any) -> Any:
        entered.set()
        may.wait(60)
        return usual(seconds, call)

    monkeypatch.setattr(grammar, "call_within", held)
    with asking_for(live, **ENDLESS | {"options": {"choices": ["a", "b"]}}):
        assert entered.wait(10)
    assert eventually(lambda: live.house.shelf.books["demo"].users == 0)
    may.set()
    assert eventually(live.is_idle)


def test_a_prompt_that_is_scored_is_read_no_further_once_nobody_waits(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    may, begun, usual, rounds = threading.Event(), threading.Event(), JudgedReading.advance, []

    def held(reading: JudgedReading) -> Any:
        begun.set()
        may.wait(60)
        rounds.append(usual(reading))
        return rounds[-1]

    async def main() -> None:
        ask = Ask(None, prompts=([5] * 200,), scores_prompts=True, options={"logprobs": 0})
        work = asyncio.create_task(scored_prompts(ask, live.lm))
        await asyncio.to_thread(begun.wait, 60)
        work.cancel()
        await asyncio.wait([work])

    monkeypatch.setattr(JudgedReading, "advance", held)
    live.lm._worker.call(lambda engine: setattr(engine, "execution", replace(engine.execution, chunk=16)))
    try:
        asyncio.run(main())
        may.set()
        assert eventually(live.is_idle)
    finally:
        live.lm._worker.call(lambda engine: setattr(engine, "execution", live.lm.execution))
    assert rounds == [None]


def test_an_answer_that_nobody_takes_pauses_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elm_mlx.api.stream.OUTBOX", 8)
    sent: list[bytes] = []

    async def main() -> None:
        house = House(settings())
        await house.open()
        is_open, gone = asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            if len(sent) > 2:
                await is_open.wait()
            sent.append(message.get("body", b""))

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        app = Answer(Ask(None, prompts=["Once upon a time"], max_tokens=30, streamed=True), {}, plain_dialect, house)
        task = asyncio.create_task(app({}, receive, send))  # type: ignore[arg-type]
        engine = house.shelf.books["demo"].lm._worker.engine  # type: ignore[union-attr]
        while not (engine.running and engine.running[0].is_paused):
            await asyncio.sleep(0.005)
        assert len(engine.running[0].ids) < 30
        is_open.set()
        await task
        await house.close()

    asyncio.run(main())
    assert sent[-1].endswith(b"data: [DONE]\n\n")


def test_a_client_that_takes_nothing_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "WRITE_PATIENCE_S", 0.02)
    monkeypatch.setattr(sending, "PATIENCE_S", 0.02)
    monkeypatch.setattr(sending, "SILENCE_S", 0.02)

    async def main() -> None:
        house = House(settings())
        await house.open()

        async def never(message: Any = None) -> Any:
            await asyncio.Event().wait()

        app = Answer(Ask(None, prompts=["Once"], max_tokens=400, streamed=True), {}, plain_dialect, house)
        await asyncio.wait_for(app({}, never, never), 10)  # type: ignore[arg-type]
        assert house.shelf.books["demo"].users == 0
        await house.close()

    asyncio.run(main())


def settings() -> Any:
    return type("Settings", (), USUAL)()
