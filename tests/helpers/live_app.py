"""The whole app of the server behind a real socket, in this process, with a model that says what a test tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from helpers import scripts
from helpers.loop_server import serving

from elm_mlx.server.app import make_app
from elm_mlx.server.house import House
from elm_mlx.server.settings import Settings


@dataclass(frozen=True)
class LiveApp:
    """A server that runs, and its house."""

    url: str
    house: House

    def say(self, patch: pytest.MonkeyPatch, model: str, text: str) -> list[tuple[int, ...]]:
        """Has a model that is loaded say a text, which ends with a stop token. Returns the prompts that it is given."""
        lm: Any = self.house.shelf.books[model].lm
        return scripts.say(patch, lm, text)

    def fail_after(self, patch: pytest.MonkeyPatch, model: str, text: str) -> None:
        """Has a model that is loaded say a text, and then fail."""
        lm: Any = self.house.shelf.books[model].lm
        submit = type(lm._worker).submit
        ids = scripts.ids_of(lm, text)

        def failing(request: Any, **options: Any) -> Any:
            return submit(lm._worker, replace(request, constraint=lambda: scripts.Script(ids)), **options)

        patch.setattr(lm._worker, "submit", failing)  # at the end of its ids the script raises IndexError

    def shown(self, model: str, prompt: tuple[int, ...]) -> str:
        """A prompt as text, special tokens left out."""
        lm: Any = self.house.shelf.books[model].lm
        return str(lm.tokenizer.decode(prompt))


async def load_all(house: House) -> None:
    for name in [*house.shelf.books]:
        async with house.shelf.lease(name):
            pass


@contextmanager
def living_app(*models: Path, **others: Any) -> Iterator[LiveApp]:
    """Runs a server with these models, all of them loaded."""
    made: list[House] = []
    settings = Settings(models=tuple(map(str, models)), **others)

    def make() -> Any:
        made.append(House(settings))
        return make_app(settings, made[0])

    with serving(make) as running:
        running.call(load_all(made[0]))
        try:
            yield LiveApp(running.url, made[0])
        finally:
            running.call(made[0].close())
