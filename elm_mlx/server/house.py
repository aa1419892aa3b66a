"""What all routes of the server share: the models, their figures, and how errors are told."""

from __future__ import annotations

import asyncio

from elm_mlx.errors import QueueFull
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.server.adapters import check_adapters, put_beside
from elm_mlx.server.ignored import Noted
from elm_mlx.server.metrics import Metrics
from elm_mlx.server.refusals import refusal_of
from elm_mlx.server.shelf import Shelf, names_of
from elm_mlx.server.stock import Machine, Wishes, books_of


class House:
    """What the routes of one server share. `fatal` is set, and `why` says why, where the server cannot go on: then the
    process ends with a code that is not 0."""

    def __init__(self, settings: Wishes) -> None:
        self.settings = settings
        self.fatal, self.why = asyncio.Event(), ""
        self.metrics, self._noted = Metrics(), Noted()
        books = books_of(settings.models)
        put_beside(books, settings.adapters, settings.aliases)
        self.shelf = Shelf(books, Machine(settings), settings.aliases, settings.keep_alive_s, self.die)

    async def open(self) -> None:
        """Checks the adapters of all models, and loads the first model. Raises as `elm_mlx.load`, and as
        `LanguageModel.load_adapter`."""
        for book in self.shelf.books.values():
            if book.adapters:
                await asyncio.to_thread(check_adapters, book)
        (await self.shelf.take(None)).give_back()

    async def close(self) -> None:
        """Closes all models."""
        await self.shelf.close()

    def die(self, why: str) -> None:
        """Says that the server cannot go on."""
        self.why = self.why or why
        self.fatal.set()

    def refusal_of(self, error: BaseException) -> Refusal:
        """What a client is told of an error: where too many wait, with a time after which there may be room."""
        refusal = refusal_of(error)
        if isinstance(error, QueueFull):
            refusal.headers["retry-after"] = str(self.wait_s())
        return refusal

    def note_ignored(self, names: tuple[str, ...]) -> None:
        """Hears of the fields of a request that have no effect."""
        if names:
            self._noted.add(names)

    def wait_s(self) -> int:
        """In how many seconds, 1 to 120, those who wait now may have been answered: clients wait no longer."""
        loaded = [(book, book.lm.activity.waiting) for book in self.shelf.books.values() if book.lm]
        usual = self.metrics.usual_seconds
        seconds = sum(waiting * max(map(usual, names_of(book))) for book, waiting in loaded)
        return min(120, max(1, round(seconds / self.settings.concurrency)))

    def figures(self) -> str:
        """All figures in Prometheus's format."""
        return self.metrics.text({book.name: book.lm.activity for book in self.shelf.books.values() if book.lm})
