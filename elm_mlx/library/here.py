"""Every model on this machine that loads without being fetched or converted, by its names. Nothing here asks the
network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from elm_mlx.config import config_or_guest
from elm_mlx.errors import ElmError
from elm_mlx.files import optional_json, reading
from elm_mlx.library import copies
from elm_mlx.library.hub_cache import cache_directory
from elm_mlx.library.local import candidates, find_local
from elm_mlx.library.names import Known, Repository, known_models
from elm_mlx.store.layout import is_complete

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def models_here() -> dict[str, tuple[Path, int]]:
    """The directory and the context, in tokens, of each model here that elm-mlx runs, by its names, sorted."""
    found = {name: (path, context_of(path)) for name, path in places()}
    return {name: (path, context) for name, (path, context) in sorted(found.items()) if context}


def places() -> Iterator[tuple[str, Path]]:
    """Names and directories: of known models, of the hub's cache, and of elm-mlx's own copies, of which the newest of
    several counts."""
    for copy in reversed(copies.all_copies()):
        if is_complete(copy.path):
            yield copy.repository, copy.path
    names: list[Known | Repository] = [*known_models().values(), *cached_repositories()]
    for name in names:
        if path := place_of(name):
            yield name.name, path


def place_of(name: Known | Repository) -> Path | None:
    """Where a model lies on this machine; None where it does not, or is damaged."""
    try:
        found = find_local(candidates(name, None))
    except ElmError:
        return None
    return found.path if found else None


def cached_repositories() -> list[Repository]:
    """The repositories of which there is anything in the hub's cache."""
    with reading(cache_directory()):
        folders = sorted(path.name for path in cache_directory().glob("models--*--*"))
    names = [folder.removeprefix("models--").replace("--", "/", 1) for folder in folders]
    return [Repository(name) for name in names if REPOSITORY.fullmatch(name)]


def context_of(path: Path) -> int | None:
    """The context of the model in a directory, in tokens; None where elm-mlx does not run it."""
    try:
        return config_or_guest(optional_json(path / "config.json")).context_length
    except ElmError:
        return None
