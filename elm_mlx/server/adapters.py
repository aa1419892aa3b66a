"""The adapters that a server has beside its models: clients ask for one as MODEL:ADAPTER."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elm_mlx.errors import InvalidRequest

if TYPE_CHECKING:
    from elm_mlx.server.book import Book

BETWEEN = ":"  # a model's name and an adapter's
ITS_MODEL = "Name the model that it was made for as {models}, and its name before the adapter's: MODEL:NAME=PATH."


@dataclass(frozen=True)
class Wanted:
    """An adapter as it was asked for: the `model` that it stands beside (None: the only one), its name and its
    directory."""

    model: str | None
    name: str
    path: Path


def parse_wanted(typed: str) -> Wanted:
    """Reads PATH, NAME=PATH or MODEL:NAME=PATH. Without a name the adapter is called as its directory is; a text that
    is a directory as a whole names neither. Raises InvalidRequest."""
    named, equals, path = typed.partition("=")
    if not equals or Path(typed).is_dir():
        name = Path(typed).resolve().name
        if BETWEEN in name:
            raise InvalidRequest(f"The adapter {typed} has a {BETWEEN} in its name, and clients ask for MODEL:ADAPTER.",
                                 f"Write {{adapters}} as NAME={typed}, with another name.")  # fmt: skip
        return Wanted(None, name, Path(typed))
    model, _, name = named.rpartition(BETWEEN)
    if not name or not path or "/" in name:
        raise InvalidRequest(f"The adapter {typed!r} is not PATH, NAME=PATH or MODEL:NAME=PATH.",
                             "Write {adapters} as pirate=./runs/7, or as demo:pirate=./runs/7.")  # fmt: skip
    return Wanted(model or None, name, Path(path))


def put_beside(books: Sequence[Book], typed: Sequence[str], aliases: Mapping[str, str]) -> None:
    """Gives the models their adapters. Raises InvalidRequest where a model is not served, is not named though there are
    several, or would have two adapters of one name."""
    by_name = {book.name: book for book in books}
    for one in map(parse_wanted, typed):
        if one.model is None and len(books) > 1:
            names = ", ".join(by_name)
            raise InvalidRequest(f"The adapter {one.name} could stand beside any of {names}.",
                                 f"Write {{adapters}} as {books[0].name}:{one.name}={one.path}.")  # fmt: skip
        model = books[0].name if one.model is None else aliases.get(one.model, one.model)
        if model not in by_name:
            raise InvalidRequest(f"The adapter {one.name} is for {one.model}, which this server was not told to serve. "
                                 f"It serves {', '.join(by_name)}.", "Name that model as {models}, too.")  # fmt: skip
        by_name[model].adapters[one.name] = one.path
    seen = Counter((one.model, one.name) for one in map(parse_wanted, typed))
    if twice := [name for (_, name), count in seen.items() if count > 1]:
        raise InvalidRequest(f"Two adapters have the name {twice[0]}.", "Give {adapters} names: NAME=PATH.")


def check_adapters(book: Book) -> None:
    """Reads the adapters of a model before it is loaded, so that a mistake shows at the start. Raises as
    `LanguageModel.load_adapter`, and NotFound where the model is not on this machine."""
    from elm_mlx.demo import demo_directory
    from elm_mlx.device.thread import on_device
    from elm_mlx.library.local import find_in_any_bits
    from elm_mlx.store.adapters.read import check_base, read_adapter
    from elm_mlx.store.load import read_config

    directory = demo_directory() if book.source is None else find_in_any_bits(book.source, None)

    def work(_: object) -> None:
        config = read_config(directory)
        for path in book.adapters.values():
            check_base(read_adapter(path, config), directory, ITS_MODEL)

    on_device(work)
