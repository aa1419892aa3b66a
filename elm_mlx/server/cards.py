"""What clients may know of the models, for the lists that the APIs have of them."""

from __future__ import annotations

from typing import NamedTuple

from elm_mlx.server.book import Book
from elm_mlx.server.shelf import Shelf, names_of


class Card(NamedTuple):
    """A model as a list shows it: the name by which requests ask for it, since when it is there (seconds since 1970),
    its context in tokens where that is known, whether it is loaded, and whether it has a chat template, which is known
    while it is loaded."""

    id: str
    created: int
    context_length: int | None
    is_loaded: bool
    has_chat_template: bool | None = None


async def cards(shelf: Shelf) -> list[Card]:
    """All models by their names, the default first, each followed by those with its adapters, and their aliases."""
    await shelf.refresh()
    first = shelf.books[shelf.default]
    books = [first, *(book for book in shelf.books.values() if book is not first)]
    named = [(name, book) for book in books for name in names_of(book)]
    named += [(alias, book) for alias in shelf.aliases if (book := shelf.book(alias))]
    return [card_of(shelf, name, book) for name, book in named]


async def card(shelf: Shelf, name: str) -> Card:
    """One model by its name or alias. Raises UnknownModel, InvalidRequest."""
    return card_of(shelf, name, await shelf.look_up(name))


def card_of(shelf: Shelf, name: str, book: Book) -> Card:
    """A model under one of its names."""
    return Card(name, shelf.since, book.context, book.lm is not None, book.lm.has_chat_template if book.lm else None)
