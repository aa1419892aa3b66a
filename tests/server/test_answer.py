"""What stands between HTTP and the engine: requests are answered, whole or as they come, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from helpers import plain_dialect
from helpers.loop_server import Running, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

import elm_mlx
from elm_mlx.server.answer import answer
from elm_mlx.server.house import House

PROMPT = "Once upon a time"


def settings(**others: Any) -> Any:
    usual = {
        "models": (), "aliases": {"gpt": "demo"}, "pull": False, "max_queue": 8, "concurrency": 2, "context": None,
        "keep_alive_s": 300.0, "cpu_policy": "auto", "strict": False,
    }  # fmt: skip
    return SimpleNamespace(**(usual | others))


def app_of(house: House) -> Starlette:
    async def ask(request: Request) -> Any:
        return await answer(request, plain_dialect, house)

    return Starlette(routes=[Route("/ask", ask, methods=["POST"])])


class Live:
    """A running server and its house."""

    def __init__(self, running: Running, house: House) -> None:
        self.running, self.house = running, house
        self.client = httpx.Client(base_url=running.url, timeout=30)

    def ask(self, **body: Any) -> httpx.Response:
        return self.client.post("/ask", json=body)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    house: list[House] = []

    def make() -> Starlette:
        house.append(House(settings()))
        return app_of(house[0])

    with serving(make) as running:
        running.call(house[0].open())
        live = Live(running, house[0])
        yield live
        live.client.close()
        running.call(house[0].close())


@pytest.fixture(scope="module")
def demo() -> Iterator[elm_mlx.LanguageModel]:
    with elm_mlx.load() as lm:
        yield lm


def events_in(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_an_answer_is_the_one_that_the_library_gives(live: Live, demo: elm_mlx.LanguageModel) -> None:
    given = live.ask(prompt=PROMPT, max_tokens=12).json()
    assert given["answers"][0]["text"] == demo.generate(PROMPT, 12).text
    assert given["model"] == "demo"


def test_a_stream_has_the_same_text_after_a_sign_of_life(live: Live, demo: elm_mlx.LanguageModel) -> None:
    response = live.ask(prompt=PROMPT, max_tokens=12, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text.startswith(":")
    begin, *pieces, finish, done = events_in(response.text)
    assert begin == {"begin": [len(demo.tokenizer.encode(PROMPT))]}
    assert "".join(piece["text"] for piece in pieces) == demo.generate(PROMPT, 12).text
    assert finish == {"index": 0, "finish": "length"}
    assert done == "[DONE]"
