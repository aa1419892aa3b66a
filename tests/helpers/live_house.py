"""The part of the server between HTTP and the engine, behind real sockets, speaking the plain dialect."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
from helpers import plain_dialect
from helpers.loop_server import Running, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from elm_mlx.server import models, tokens
from elm_mlx.server.answer import answer
from elm_mlx.server.house import House

USUAL = {
    "models": (), "aliases": {"gpt": "demo"}, "adapters": (), "pull": False, "max_queue": 8, "concurrency": 2,
    "context": None, "keep_alive_s": 300.0, "cpu_policy": "auto", "strict": False, "parallel": None,
}  # fmt: skip


def app_of(house: House) -> Starlette:
    async def ask(request: Request) -> Any:
        return await answer(request, plain_dialect, house)

    async def count(request: Request) -> Any:
        return await tokens.count(request, plain_dialect, house, lambda number: {"count": number})

    def about(work: Any) -> Any:
        async def route(request: Request) -> Any:
            return await work(request, house)

        return route

    routes = [Route("/ask", ask, methods=["POST"]), Route("/count", count, methods=["POST"])]
    routes += [
        Route(f"/{name}", about(work), methods=["POST"])
        for name, work in (("tokenize", tokens.tokenize), ("detokenize", tokens.detokenize),
                           ("apply-template", tokens.apply_template))
    ]  # fmt: skip
    routes += [Route("/v1/models", about(models.list_models)), Route("/v1/models/{id:path}", about(models.show_model))]
    return Starlette(routes=routes)


class Live:
    """A running server and its house."""

    def __init__(self, running: Running, house: House) -> None:
        self.running, self.house = running, house
        self.client = httpx.Client(base_url=running.url, timeout=30)

    def post(self, path: str = "/ask", **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    @property
    def lm(self) -> Any:
        return self.house.shelf.books["demo"].lm

    def is_idle(self) -> bool:
        """Whether the model answers nobody."""
        now = self.lm.activity
        return not (now.running or now.waiting)


@contextmanager
def living(**settings: Any) -> Iterator[Live]:
    """Runs a server with these settings."""
    made: list[House] = []

    def make() -> Starlette:
        made.append(House(SimpleNamespace(**(USUAL | settings))))
        return app_of(made[0])

    with serving(make) as running:
        running.call(made[0].open())
        live = Live(running, made[0])
        try:
            yield live
        finally:
            live.client.close()
            running.call(made[0].close())


def events_in(text: str) -> list[Any]:
    """The data of all events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Waits until something holds; returns whether it did in time."""
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.005)
    return True
