"""The models on this machine that a request may name. A request's own text is never looked for on the disk."""

from __future__ import annotations

from pathlib import Path

from elm_mlx.library.here import REPOSITORY, models_here
from elm_mlx.library.names import known_models
from elm_mlx.server.book import Book


def books_here(most: int | None = None) -> list[Book]:
    """The models on this machine that load without being fetched or converted, by their names; of their context `most`
    tokens are used, if that is given."""
    return [Book(name, path, min(own, most or own)) for name, (path, own) in models_here().items()]


def may_be_fetched(name: str) -> bool:
    """Whether a text is the name of a model that may be fetched: a known one, or owner/name of a repository, and no
    directory."""
    if name in known_models():
        return True
    return bool(REPOSITORY.fullmatch(name)) and ".." not in name and not Path(name).exists()
