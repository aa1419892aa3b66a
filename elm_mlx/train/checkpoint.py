"""A training's state in one file, from which it goes on exactly: written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotFound
from elm_mlx.files import disk_errors, whole_file
from elm_mlx.store.weights import Entry, Writer, read_arrays, read_metadata
from elm_mlx.train.training import Arrays

CHECKPOINT = "checkpoint.safetensors"
PARTS = "value", "m", "v"  # an array, and Adam's means of its gradient and of that squared
STATE, FACTS = "state", "facts"  # in the metadata


@dataclass(frozen=True)
class State:
    """How far a training is: `step` steps are done; `best` is the least validation loss so far (None: none yet), and
    `waited` how many validations there were since."""

    step: int = 0
    best: float | None = None
    waited: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: the state, the arrays, Adam's means of each, and the `facts` that a training must share to go
    on from it."""

    state: State
    arrays: Arrays
    means: dict[str, dict[str, mx.array]]
    facts: Mapping[str, Any]


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint over an earlier one. Raises DiskFull, ElmError."""
    tensors = {}
    for name, array in checkpoint.arrays.items():
        tensors[f"{name}|value"] = array
        for part in PARTS[1:]:
            tensors[f"{name}|{part}"] = checkpoint.means[name][part]
    metadata = {STATE: json.dumps(vars(checkpoint.state)), FACTS: json.dumps(checkpoint.facts)}
    write_tensors(directory / CHECKPOINT, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file whole or not at all. Raises DiskFull, ElmError."""
    entries = {name: Entry(array.dtype, array.shape) for name, array in tensors.items()}
    with (
        disk_errors(f"{path} cannot be written"),
        whole_file(path) as beside,
        Writer(beside, entries, metadata=metadata) as writer,
    ):
        for name, array in tensors.items():
            writer.write(name, array)


def read_checkpoint(directory: Path, facts: Mapping[str, Any]) -> Checkpoint:
    """Reads the checkpoint of a training. Raises NotFound where there is none, InvalidRequest, which names what
    differs, where it is one of a training with other `facts`, and BadCheckpoint for a damaged one."""
    path = directory / CHECKPOINT
    if not path.is_file():
        raise NotFound(f"There is no {CHECKPOINT} in {directory} to go on from.", "Leave {resume} out.")
    try:
        metadata = read_metadata(path)
        state, found = State(**json.loads(metadata[STATE])), json.loads(metadata[FACTS])
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{path} is not a checkpoint of a training. Train anew.") from error
    refuse_others(path, found, json.loads(json.dumps(facts)))
    tensors = {name: array for name, (_, array) in read_arrays(path).items()}
    mx.eval(tensors)
    names = [name.removesuffix("|value") for name in tensors if name.endswith("|value")]
    if sorted(tensors) != sorted(f"{name}|{part}" for name in names for part in PARTS):
        raise BadCheckpoint(f"{path} is damaged: Adam's means of an array are missing. Train anew.")
    means = {name: {part: tensors[f"{name}|{part}"] for part in PARTS[1:]} for name in names}
    return Checkpoint(state, {name: tensors[f"{name}|value"] for name in names}, means, found)


def refuse_others(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises InvalidRequest where a checkpoint's facts are not those that are asked for."""
    other = [name for name in asked if name not in found or found[name] != asked[name]]
    if other:
        said = ", ".join(f"{name} ({found.get(name)!r:.80} there, {asked[name]!r:.80} now)" for name in other)
        raise InvalidRequest(f"{path} is of another training: {said}. Only the same training can go on from it.",
                             "Give the same options, or leave {resume} out and name another {output}.")  # fmt: skip
