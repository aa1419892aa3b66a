"""Where the server's models come from: those that were named at its start, and those on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from elm_mlx.arguments import Progress
from elm_mlx.errors import InvalidRequest
from elm_mlx.server.book import Book

if TYPE_CHECKING:
    from elm_mlx.api import LanguageModel
    from elm_mlx.distributed.part import Kind
    from elm_mlx.distributed.ranks import Ranks

DEMO = "demo"  # the name of the built-in model


class Wishes(Protocol):
    """What the house wants to know of the server's settings.

    `models` are names or directories, none of them meaning the demo; `aliases` are further names of these. `adapters`
    stand beside them, each as PATH, NAME=PATH or MODEL:NAME=PATH. `pull` lets requests fetch models. `keep_alive_s` is
    after how many seconds an idle model is closed, below 0 never. With `strict` fields that are not known are refused.
    With `parallel` several ranks hold the one model in that way, and this process is rank 0.
    """

    @property
    def models(self) -> Sequence[str]: ...
    @property
    def aliases(self) -> Mapping[str, str]: ...
    @property
    def adapters(self) -> Sequence[str]: ...
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
    @property
    def parallel(self) -> Kind | None: ...


class Machine:
    """The stock of a server with these settings."""

    def __init__(self, settings: Wishes) -> None:
        self._settings = settings

    def load(self, book: Book, progress: Progress) -> LanguageModel:
        """Loads a model with its adapters, and makes what forms of answers need: its first form must not stop the
        answers beside it. Raises as `elm_mlx.load`, and as `load_adapter`."""
        import elm_mlx

        wishes = self._settings
        lm = elm_mlx.load(
            book.source, cpu_policy=wishes.cpu_policy, progress=progress, rows=wishes.concurrency,
            queue=wishes.max_queue, context=wishes.context, ranks=self._ranks(book),
        )  # fmt: skip
        try:
            for name, path in book.adapters.items():
                lm.load_adapter(name, path)
            with suppress(Exception):  # then who asks for a form hears of it: all other answers need none
                lm.prepare_forms()
        except BaseException:
            lm.close()
            raise
        return lm

    def _ranks(self, book: Book) -> Ranks | None:
        """The ranks that hold the model with this one, which it meets first; None where it runs alone."""
        if not (kind := self._settings.parallel):
            return None
        from elm_mlx.distributed.joining import directory_here, join_model  # here, as few servers need it

        policy = self._settings.cpu_policy
        return join_model(kind, lambda: directory_here(book.source, None), settings={"cpu_policy": policy})

    def find(self) -> list[Book]:
        """The models on this machine that could be loaded; none beside one that several ranks hold."""
        if self._settings.parallel:
            return []
        from elm_mlx.server.here import books_here  # here, as it reads much of the library

        return books_here(self._settings.context)

    def may_fetch(self, name: str) -> bool:
        """Whether a model that is not here may be fetched because a request names it."""
        from elm_mlx.server.here import may_be_fetched

        return self._settings.pull and not self._settings.parallel and may_be_fetched(name)


def books_of(models: Sequence[str]) -> list[Book]:
    """The models that were named at the start; without any, the demo, which
    also goes by its name. A directory goes by its last part. Raises
    InvalidRequest where two have one name."""
    names = Counter(map(name_of, models))
    if names and (twice := names.most_common(1)[0])[1] > 1:
        raise InvalidRequest(f"Two models have the name {twice[0]}, by which clients know them. Rename a directory.")
    return [Book(name_of(model), None if model == DEMO else model) for model in models] or [Book(DEMO, None)]


def name_of(model: str) -> str:
    """The name under which clients know a model: its own, or the last part of its directory."""
    return Path(model).resolve().name if model.startswith((".", "/", "~")) or Path(model).is_dir() else model
