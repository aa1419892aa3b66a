"""The log-probabilities of all answers by the model before it is trained, computed once and kept in a file: so one
model is in memory, and a training that goes on compares with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.errors import BadCheckpoint
from elm_mlx.models.model import Model
from elm_mlx.store.weights import read_arrays, read_metadata
from elm_mlx.train.checkpoint import FACTS, write_tensors
from elm_mlx.train.dpo import Reference, answer_logprobs
from elm_mlx.train.examples import batch_of
from elm_mlx.train.pairs import Pair

REFERENCE = "reference.safetensors"
Files = Mapping[str, Sequence[Pair]]


def compute_reference(model: Model, pairs: Sequence[Pair], size: int) -> Reference:
    """(log-probability of the chosen answer, of the rejected one) of each pair; `size` pairs at a time."""
    found: dict[int, tuple[float, float]] = {}
    order = sorted(range(len(pairs)), key=lambda row: pairs[row].length)
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        batch = batch_of([pairs[row].chosen for row in rows] + [pairs[row].rejected for row in rows])
        both = mx.split(answer_logprobs(model, batch.ids, batch.counts), 2)
        chosen, rejected = (numbers(one) for one in both)
        found |= dict(zip(rows, zip(chosen, rejected, strict=True), strict=True))
    return [found[row] for row in range(len(pairs))]


def numbers(array: mx.array) -> list[float]:
    """The numbers of an array [N] in float32."""
    values: list[float] = array.tolist()  # type: ignore[assignment]
    return values


def write_reference(output: Path, references: Mapping[str, Reference], facts: Mapping[str, Any]) -> None:
    """Keeps the log-probabilities of each file's pairs, and the `facts` that they follow from. Raises DiskFull,
    ElmError."""
    tensors = {name: mx.array(list(map(list, one)), mx.float32) for name, one in references.items() if one}
    write_tensors(output / REFERENCE, tensors, {FACTS: json.dumps(facts)})


def read_reference(output: Path, files: Files, facts: Mapping[str, Any]) -> dict[str, Reference] | None:
    """The log-probabilities that were kept, by file; None where there are none that follow from these facts."""
    path = output / REFERENCE
    try:
        if not path.is_file() or json.loads(read_metadata(path)[FACTS]) != facts:
            return None
        kept = {name: array for name, (_, array) in read_arrays(path).items()}
    except (BadCheckpoint, KeyError, ValueError):
        return None
    wanted = {name: (len(pairs), 2) for name, pairs in files.items() if pairs}
    if {name: array.shape for name, array in kept.items()} != wanted:
        return None
    return {name: [(a, b) for a, b in array.tolist()] for name, array in kept.items()}  # type: ignore[misc,union-attr]
