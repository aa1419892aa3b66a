"""Which files make a model directory, and whether they are all there."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from elm_mlx.errors import NotFound
from elm_mlx.files import reading
from elm_mlx.store.side_files import file_names, side_files
from elm_mlx.store.weight_files import choose_weights, read_index


def small_files(names: Collection[str]) -> list[str]:
    """The files beside the weights that a model needs; a tokenizer.model only where there is no tokenizer.json."""
    small = [name for name in names if name == "config.json"] + side_files(names)
    if "tokenizer.json" not in names and "tokenizer.model" in names:
        small.append("tokenizer.model")
    return small


def is_complete(directory: Path) -> bool:
    """Whether a directory has a configuration and all its weight files, and no file that it needs is a broken link.
    Raises BadCheckpoint for an index that cannot be read."""
    with reading(directory):
        names = file_names(directory)
        try:
            weights = choose_weights(names, lambda index: read_index(directory / index))
        except NotFound:  # the index is a link to nothing
            return False
        needed = ["config.json", *small_files(names), *weights.all_files]
        return bool(weights.files) and all((directory / name).exists() for name in needed)


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a tokenizer of either kind."""
    with reading(directory):
        return any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model"))
