"""What all routes of the server share: the models, and how errors are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.refusals import refusal_of
from elm_mlx.server.shelf import Book, Shelf

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel

DEMO = "demo"  # the name of the built-in model


class Wishes(Protocol):
    """What the house wants to know of the server's settings.

    `models` are names or directories, none of them meaning the demo; `aliases` are further names of these. `pull` lets
    requests fetch models. `keep_alive_s` is after how many seconds an idle model is closed, below 0 never. With
    `strict` fields that are not known are refused.
    """

    @property
    def models(self) -> Sequence[str]: ...
    @property
    def aliases(self) -> Mapping[str, str]: ...
    @property
    def pull(self) -> bool: ...
    @property
    def max_queue(self) -> int: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def context(self) -> int | None: ...
    @property
    def keep_alive_s(self) -> float: ...
    @property
    def cpu_policy(self) -> str: ...
    @property
    def strict(self) -> bool: ...


class House:
    """What the routes of one server share. `fatal` is set, and `why` says why, where the server cannot go on: then the
    process ends with a code that is not 0."""

    def __init__(self, settings: Wishes) -> None:
        self.settings = settings
        self.fatal, self.why = asyncio.Event(), ""
        self.shelf = Shelf(
            books_of(settings.models), self._load, aliases=settings.aliases, keep_alive=settings.keep_alive_s,
            on_death=self.die,
        )  # fmt: skip

    async def open(self) -> None:
        """Loads the first model. Raises as `elm_mlx.load`."""
        (await self.shelf.take(None)).give_back()

    async def close(self) -> None:
        """Closes all models."""
        await self.shelf.close()

    def die(self, why: str) -> None:
        """Says that the server cannot go on."""
        self.why = self.why or why
        self.fatal.set()

    def refusal_of(self, error: BaseException) -> Refusal:
        """What a client is told of an error."""
        return refusal_of(error)

    def _load(self, book: Book, progress: Callable[[int, int], None]) -> LanguageModel:
        """Loads a model of the shelf, in a thread."""
        import elm_mlx

        wishes = self.settings
        return elm_mlx.load(
            book.source, cpu_policy=wishes.cpu_policy, progress=progress, rows=wishes.concurrency,
            queue=wishes.max_queue, context=wishes.context,
        )  # fmt: skip


def books_of(models: Sequence[str]) -> list[Book]:
    """The models that were named at the start; without any, the demo. A directory goes by its last part."""
    named = [Book(DEMO if Path(model).name == "" else name_of(model), model) for model in models]
    return named or [Book(DEMO, None)]


def name_of(model: str) -> str:
    """The name under which clients know a model: its own, or the last part of its directory."""
    return Path(model).resolve().name if model.startswith((".", "/", "~")) or Path(model).is_dir() else model
