"""The checkpoint in floats that a quantized model was made from, found by what its conversion.json says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.convert.keymap import Matched, match
from elm_mlx.convert.output import provenance
from elm_mlx.convert.sources import Source, open_source
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import ElmError, InvalidRequest
from elm_mlx.files import reading
from elm_mlx.library import hub_cache
from elm_mlx.library.names import Repository
from elm_mlx.store.conversion_record import read_record
from elm_mlx.store.weight_files import SUFFIXES

FARTHEST = 0.9  # of a quantized matrix from its floats, relative; another model's are at 1.4


@dataclass(frozen=True)
class FloatSource:
    """An open checkpoint in floats: its tensors by their names in the output."""

    source: Source
    matched: Matched

    def record(self) -> dict[str, Any]:
        """What conversion.json says of it."""
        files = {file.name: provenance.identify_file(file, lambda: False) for file in self.source.files}
        return provenance.origin(self.source.directory) | {"layout": self.source.layout, "files": files}


def open_floats(where: Path, config: ModelConfig, rope_factor: float | None = None) -> FloatSource:
    """Opens a checkpoint as the float source of a model. Raises as `open_source`, and InvalidRequest for one that is
    quantized itself, or has other weights than the model."""
    source = open_source(where, rope_factor=rope_factor)
    if source.settings or any(tensor.packed for tensor in source.tensors.values()):
        raise InvalidRequest(f"{where} is quantized itself ({source.layout}), so it holds no floats to merge into.",
                             "Name the checkpoint that was not quantized yet, or leave {source} out.")  # fmt: skip
    if source.config.weight_shapes() != config.weight_shapes():
        raise InvalidRequest(f"{where} has weights of other shapes than the model.",
                             "Name the checkpoint that the model was made from, or leave {source} out.")  # fmt: skip
    return FloatSource(source, match(source.config, source.family_layout, source.tensors, where))


def find_floats(directory: Path, config: ModelConfig) -> FloatSource | str:
    """The float source that a model's conversion.json names, where it is on this machine and unchanged; else the reason
    why there is none, a clause."""
    record = read_record(directory)
    if "merged" in record:
        return "it was merged with an adapter before, which its float source lacks"
    place = place_of(directory, record)
    if isinstance(place, str):
        return place
    factor = object_in(record, "options").get("rope_factor")
    try:
        found = open_floats(place, config, factor if isinstance(factor, float) else None)
        changed = changed_file(found.source, object_in(record, "files"))
    except ElmError as error:
        return f"its float source {place} cannot be used ({str(error).rstrip('.')})"
    return f"its float source {place} has another {changed} than it was made from" if changed else found


def place_of(directory: Path, record: Mapping[str, Any]) -> Path | str:
    """Where the source of a conversion should be: in the hub's cache, or beside the output; else a reason."""
    said, files = object_in(record, "source"), object_in(record, "files")
    repository, revision, name = (said.get(key) for key in ("repository", "revision", "directory"))
    if isinstance(repository, str) and isinstance(revision, str):
        is_plain = is_name(repository) and re.fullmatch(hub_cache.COMMIT, revision)
        snapshot = hub_cache.find_snapshot(Repository(repository, revision)) if is_plain else None
        folder = snapshot.path if snapshot else None
        name = repository
    elif isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\0" not in name:
        with reading(directory):
            folder = directory.resolve().parent / name
    else:
        return "it has no conversion.json that names its float source"
    with reading(directory):
        if folder is None or not folder.is_dir():
            return f"its float source {name} is not on this machine"
    weights = [file for file in files if file.endswith(SUFFIXES) and "/" not in file]
    return folder / weights[0] if len(weights) == 1 else folder


def is_name(repository: str) -> bool:
    """Whether a text can be a repository's name: OWNER/NAME."""
    parts = repository.split("/")
    return len(parts) == 2 and all(part not in ("", ".", "..") and part.isprintable() for part in parts)


def changed_file(source: Source, said: Mapping[str, Any]) -> str | None:
    """The first file of a source that is not the one which a conversion read, by size and hash; None where all are."""
    for file in source.files:
        if provenance.identify_file(file, lambda: False) != said.get(file.name):
            return file.name
    return None


def check_same_model(source: FloatSource, own: Mapping[str, LazyTensor], names: list[str]) -> None:
    """Raises InvalidRequest where a matrix of a model is not near that of its float source."""
    name = min(names, key=lambda name: (own[name].shape[0], name))
    ours, theirs = own[name].read(), source.matched.tensors[name].read().astype(mx.float32)
    if not float(mx.linalg.norm(ours - theirs)) <= FARTHEST * float(mx.linalg.norm(theirs)):
        raise InvalidRequest(f"{source.source.where} has other numbers than the model: {name} is not what it was "
                             "quantized from.",
                             "Name the checkpoint that the model was made from, or leave {source} out.")  # fmt: skip


def object_in(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within an object; an empty one for anything else."""
    found = record.get(key)
    return found if isinstance(found, dict) else {}
