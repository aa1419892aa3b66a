"""The models that a server answers with, by name: loaded when they are asked for, closed when nobody asks any more."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elm_mlx.errors import (
    ElmError,
    EngineStopped,
    Gated,
    InvalidRequest,
    NotEnoughMemory,
    NotFound,
    QueueFull,
    Unreachable,
)
from elm_mlx.server.adapters import BETWEEN
from elm_mlx.server.book import Book, Stock
from elm_mlx.server.refusals import UnknownModel

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel

log = logging.getLogger("elm_mlx.server")
DEFAULT = (None, "default", "default_model")  # names that mean the first model
MOST_NAMES = 20  # in a message
LOOK_S = 10.0  # between two looks at the disk


@dataclass
class Lease:
    """A loaded model in use, with the `adapter` that was asked for: it stays until `give_back`."""

    shelf: Shelf
    book: Book
    lm: LanguageModel
    adapter: str | None = None
    is_open: bool = True

    @property
    def name(self) -> str:
        """The name on the shelf of the model, with its adapter."""
        return f"{self.book.name}{BETWEEN}{self.adapter}" if self.adapter else self.book.name

    def give_back(self) -> None:
        """Ends the use; a second time does nothing."""
        if self.is_open:
            self.is_open = False
            self.shelf.leave(self.book)


class Shelf:
    """Models by name. All methods but those that say otherwise belong to one event loop.

    `books` are the models that were named at the start, the first of which is the default; `aliases` are other names of
    theirs. More of them, and each model when it is loaded, come from the `stock`. A model that nobody has used for
    `keep_alive` seconds is closed: 0 means at once, a number below 0 never. `on_death` is called where a model's engine
    dies and does not come back.
    """

    def __init__(
        self, books: list[Book], stock: Stock, aliases: Mapping[str, str], keep_alive: float,
        on_death: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.books = {book.name: book for book in books}
        self._named, self.default = books, books[0].name
        self.aliases, self.keep_alive, self.on_death = dict(aliases), keep_alive, on_death
        self._stock, self._is_open = stock, True
        self._looked_at, self._looking = -math.inf, asyncio.Lock()
        self.since = int(time.time())
        self._one_at_a_time = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    # Names

    def book(self, name: object) -> Book | None:
        """The model that a name means, if it is known already: nothing on the disk is looked at."""
        return self.entry(name)[0]

    def entry(self, name: object) -> tuple[Book | None, str | None]:
        """The model that a name means, as `book` gives it, and the adapter beside it: MODEL:ADAPTER names one."""
        if name in DEFAULT:
            return self.books[self.default], None
        if not isinstance(name, str):
            return None, None
        name = self.aliases.get(name, name)
        if name in self.books:
            return self.books[name], None
        model, _, adapter = name.rpartition(BETWEEN)
        base = self.books[self.default] if model in DEFAULT else self.books.get(self.aliases.get(model, model))
        return (base, adapter) if base and adapter in base.adapters else (None, None)

    async def look_up(self, name: object) -> Book:
        """The model that a name means; it is a new one where the name is that of a model that may be fetched. Raises
        InvalidRequest for what is no name, UnknownModel for one that there is not, with those that there are."""
        if name is not None and (not isinstance(name, str) or not name):
            raise InvalidRequest("model must be the name of a model, as a text that is not empty.")
        if found := self.book(name):
            return found
        await self.refresh()
        if found := self.book(name):
            return found
        model, _, adapter = str(name).rpartition(BETWEEN)
        if base := self.book(model) if model else None:
            there = ", ".join(base.adapters)
            raise UnknownModel(f"The model {base.name} has no adapter {adapter[:100]!r} here. "
                               + (f"It has: {there}." if there else "It has none."))  # fmt: skip
        if await asyncio.to_thread(self._stock.may_fetch, str(name)):
            return Book(str(name), str(name), is_foreign=True)
        names = ", ".join([*self.names, *self.aliases][:MOST_NAMES])
        raise UnknownModel(f"There is no model {str(name)[:100]!r} here. There are: {names}.")

    @property
    def names(self) -> list[str]:
        """The names of all models, each followed by those with its adapters."""
        return [name for book in self.books.values() for name in names_of(book)]

    async def refresh(self) -> None:
        """Looks for the models on this machine that came and went since the last look, every LOOK_S at most."""
        async with self._looking:  # who comes meanwhile waits for what is found
            if time.monotonic() - self._looked_at < LOOK_S:
                return
            self._take_in(await asyncio.to_thread(self._stock.find))
            self._looked_at = time.monotonic()

    def _take_in(self, here: list[Book]) -> None:
        """Adds the models that were found on this machine, and forgets those that were not and that nobody uses."""
        found = {book.name: book for book in here}
        for name in [book.name for book in self.books.values() if book not in self._named and not book.is_used]:
            if name not in found:
                del self.books[name]
        for name, book in found.items():
            self.books.setdefault(name, book)

    # Leases

    def take_now(self, name: object) -> Lease | None:
        """Begins to use a model that is loaded; None where it is not."""
        book, adapter = self.entry(name)
        return self._enter(book, book.lm, adapter) if book and book.lm else None

    async def take(self, name: object) -> Lease:
        """Begins to use a model, which is loaded first where it is not. Raises as `look_up`, and as `elm_mlx.load`."""
        found = await self.look_up(name)
        book = self.books.setdefault(found.name, found)
        book.users += 1
        try:
            while book.lm is None:
                await self._wait_until_loaded(book)
            return self._enter(book, book.lm, self.entry(name)[1])
        finally:
            self.leave(book)

    @asynccontextmanager
    async def lease(self, name: object) -> AsyncIterator[Lease]:
        """Uses a model within a `with` block, as `take` does."""
        lease = self.take_now(name) or await self.take(name)
        try:
            yield lease
        finally:
            lease.give_back()

    def _enter(self, book: Book, lm: LanguageModel, adapter: str | None) -> Lease:
        book.users += 1
        if book.closes:
            book.closes.cancel()
            book.closes = None
        return Lease(self, book, lm, adapter)

    def leave(self, book: Book) -> None:
        """Ends one use of a model, and with the last one lets its time run."""
        book.users -= 1
        book.used = time.monotonic()
        self._let_run(book)

    def _let_run(self, book: Book) -> None:
        """Has a model closed after a while, where nobody uses it."""
        if book.users == 0 and book.lm and self.keep_alive >= 0 and not book.closes:
            loop = asyncio.get_running_loop()
            book.closes = loop.call_later(self.keep_alive, lambda: self._spawn(self._close_idle(book)))

    # Loading and closing

    async def _wait_until_loaded(self, book: Book) -> None:
        if book.loading is None:
            if not self._is_open:
                raise EngineStopped("The server is stopping, and loads no model any more.")
            book.loading = asyncio.create_task(self._open(book))
            book.loading.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it
        await asyncio.shield(book.loading)  # who waits may go away; the others want it

    async def _open(self, book: Book) -> LanguageModel:
        """Loads a model, one at a time. Where memory is short, idle ones are closed first, the least recently used
        before others."""
        try:
            async with self._one_at_a_time:
                log.info("loading %s", book.name)
                begun = time.monotonic()
                book.lm = await self._load_beside(book)
                book.context, book.is_foreign = book.lm.config.context_length, False
                log.info("loaded %s in %.1f s", book.name, time.monotonic() - begun)
                self._let_run(book)  # all who waited for it may have left
                return book.lm
        except (NotFound, Gated, Unreachable) as error:
            if not book.is_foreign:
                raise
            self.books.pop(book.name, None)
            raise UnknownModel(str(error)) from error
        finally:
            book.loading = book.progress = None

    async def _load_beside(self, book: Book) -> LanguageModel:
        def tell(done: int, total: int) -> None:
            book.progress = done, total

        while True:
            try:
                return await asyncio.to_thread(self._stock.load, book, tell)
            except NotEnoughMemory as error:
                others = [other for other in self.books.values() if other.lm and other is not book]
                idle = sorted((other for other in others if not other.users), key=lambda other: other.used)
                if others and not idle:
                    busy = ", ".join(other.name for other in others)
                    raise QueueFull(f"{book.name} has no room beside {busy}, which is in use. {error}") from error
                if not idle:
                    raise
                await self._close(idle[0])

    async def _close_idle(self, book: Book) -> None:
        book.closes = None
        async with self._one_at_a_time:
            if not book.users and not book.closes:  # nor was it used while this waited
                await self._close(book)

    async def _close(self, book: Book) -> None:
        """Closes a model and gives its memory back. From now on it counts as not loaded."""
        if book.closes:
            book.closes.cancel()
            book.closes = None
        if lm := book.lm:
            book.lm = None
            log.info("closing %s", book.name)
            await asyncio.to_thread(lm.close)

    async def close(self) -> None:
        """Closes all models, and waits for that. From then on none is loaded."""
        self._is_open = False
        for book in [*self.books.values()]:
            if book.loading:
                await asyncio.wait([book.loading])
            await self._close(book)

    # A dead engine

    def died(self, lease: Lease, error: ElmError) -> None:
        """Hears that the model of a lease answers no more. It is closed and loaded again, once; `on_death` is called
        where that fails, or where it dies again before it has answered."""
        book = lease.book
        if book.lm is not lease.lm:  # it was closed on purpose, or somebody has said so already
            return
        log.error("%s answers no more: %s", book.name, error)
        if book.is_reborn:
            self.on_death(f"{book.name} died again after it was loaded again: {error}")
        book.is_reborn, book.lm = True, None  # at once: others may have the same to say
        self._spawn(self._revive(book, lease.lm))

    def lives(self, lease: Lease) -> None:
        """Hears that a model has answered."""
        lease.book.is_reborn = False

    async def _revive(self, book: Book, dead: LanguageModel) -> None:
        try:
            async with self._one_at_a_time:
                await asyncio.to_thread(dead.close)
            (await self.take(book.name)).give_back()
        except Exception as error:  # whatever it is, the model is not there
            self.on_death(f"{book.name} died, and could not be loaded again: {error}")

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def names_of(book: Book) -> list[str]:
    """The names by which clients ask for a model, and for it with each of its adapters."""
    return [book.name, *(f"{book.name}{BETWEEN}{adapter}" for adapter in book.adapters)]
