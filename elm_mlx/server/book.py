"""A model of the server's, loaded or not, and where such models come from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from elm_mlx.arguments import Progress

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel


@dataclass(eq=False)
class Book:
    """A model of the shelf: its `name`, what `elm_mlx.load` takes to load it, and its `context` in tokens, once that is
    known; the directories of its `adapters` by name, which are loaded with it. One that `is_foreign` is not on this
    machine, and is fetched when it is loaded. While it is loaded it has its `lm`; `users` are the requests that use it
    now, `used` when the last one ended, in seconds of `time.monotonic`."""

    name: str
    source: str | Path | None
    context: int | None = None
    is_foreign: bool = False
    lm: LanguageModel | None = None
    loading: asyncio.Task[LanguageModel] | None = None
    progress: tuple[int, int] | None = None  # bytes read, in all
    users: int = 0
    used: float = 0.0
    closes: asyncio.TimerHandle | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    is_reborn: bool = False  # loaded again after its engine died, and not heard of since

    @property
    def is_used(self) -> bool:
        """Whether it is loaded, or about to be."""
        return bool(self.lm or self.loading or self.users)


class Stock(Protocol):
    """Where models come from. Its methods run in threads."""

    def load(self, book: Book, progress: Progress) -> LanguageModel:
        """Loads a model; `progress` is called with (bytes read, in all). Raises as `elm_mlx.load`."""
        ...

    def find(self) -> list[Book]:
        """The models on this machine that could be loaded."""
        ...

    def may_fetch(self, name: str) -> bool:
        """Whether a name is that of a model that may be fetched because a request asks for it."""
        ...
