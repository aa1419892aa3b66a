"""Which files make a model directory, and whether they are all there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from elm_mlx.files import MAX_LARGE_BYTES, optional_json, reading
from elm_mlx.store.side_files import file_names, side_files

WEIGHT_PATTERNS = (
    r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?",
    r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?",
)
SHARD_PATTERN = re.compile(r"(.*)-\d{5}-of-(\d{5})(\..*)")


def weight_files(names: Iterable[str]) -> list[str]:
    """The weight files among `names`: safetensors, else PyTorch's. A second copy in a subfolder does not count."""
    for pattern in WEIGHT_PATTERNS:
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            return found
    return []


def needed_files(names: list[str]) -> list[str]:
    """The files of a repository that a model needs; a tokenizer.model only where there is no tokenizer.json."""
    small = [name for name in names if name == "config.json"] + side_files(names)
    if "tokenizer.json" not in names and "tokenizer.model" in names:
        small.append("tokenizer.model")
    return small + weight_files(names)


def is_complete(directory: Path) -> bool:
    """Whether a directory has a configuration and all its weight files, and no file that it needs is a broken link."""
    with reading(directory):
        names = needed_files(file_names(directory))
        there = {name for name in names if (directory / name).exists()}
        weights = weight_files(there)
        needed = {shard for name in weights for shard in shard_names(directory, name)}
        return "config.json" in there and bool(weights) and there >= {*names, *needed}


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a tokenizer of either kind."""
    with reading(directory):
        return any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model"))


def shard_names(directory: Path, name: str) -> list[str]:
    """The weight files that one of them requires: an index requires all that it names, a shard the whole series."""
    if name.endswith(".index.json"):
        named = optional_json(directory / name, MAX_LARGE_BYTES).get("weight_map")
        return [str(shard) for shard in named.values()] if isinstance(named, dict) else []
    if not (numbered := SHARD_PATTERN.fullmatch(name)):
        return [name]
    begin, count, end = numbered.groups()
    return [f"{begin}-{number:05}-of-{count}{end}" for number in range(1, int(count) + 1)]
