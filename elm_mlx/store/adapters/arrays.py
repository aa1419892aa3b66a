"""The tensors of an adapter's file, judged by their names and shapes before one is read, and by their numbers after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path

import mlx.core as mx

from elm_mlx.config.base import ModelConfig
from elm_mlx.device.memory import memory_limit
from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotEnoughMemory
from elm_mlx.files import readable_size
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import FETCH_AGAIN, matrices_of
from elm_mlx.store.weight_files import some
from elm_mlx.store.weights import Entry, read_arrays, read_header

MOST_RANK = 1024  # larger ones are no low ranks, and could fill any memory
A, B, M = "a", "b", "m"
Part = tuple[str, str]  # (matrix, A, B or M)


def read_low_ranks(
    path: Path,
    config: ModelConfig,
    part_of: Callable[[str], Part | None],
    turned: bool,
    scale_of: Callable[[str], float],
) -> dict[str, LowRank]:
    """Reads an adapter's tensors. `part_of` says which part of which matrix a name is, None for a name that is none;
    with `turned` a is stored as [R, I] and b as [O, R]. `scale_of` gives the scale of a matrix's sum, with which b is
    multiplied.

    Raises NotFound, BadCheckpoint for a damaged file, InvalidRequest for one that does not suit the model, and
    NotEnoughMemory.
    """
    header = read_header(path)
    parts = {name: part_of(name) for name in header}
    if strange := [name for name, part in parts.items() if part is None]:
        raise BadCheckpoint(f"{path} holds what is no part of a low-rank adapter: {some(strange)}. An adapter here is "
                            "LoRA or DoRA on the matrices of a model's layers.")  # fmt: skip
    named = {part: name for name, part in parts.items() if part}
    entries = {part: header[name] for part, name in named.items()}
    check_shapes(path, config, entries, turned)
    refuse_large(path, entries.values())
    found = {name: array for name, (_, array) in read_arrays(path).items()}
    arrays = {part: found[name].astype(mx.float32) for part, name in named.items()}
    return low_ranks(path, arrays, turned, scale_of)


def refuse_large(path: Path, entries: Iterable[Entry]) -> None:
    """Raises NotEnoughMemory for tensors that, in float32, no memory of this machine would hold. A file with holes may
    promise them, and take no room on the disk."""
    needed, room = sum(4 * prod(entry.shape) for entry in entries), memory_limit()
    if needed > room:
        raise NotEnoughMemory(f"The adapter {path} needs {readable_size(needed)} of memory, and this machine has "
                              f"{readable_size(room)}.", "Train one of a smaller rank.", needed, room)  # fmt: skip


def check_shapes(path: Path, config: ModelConfig, parts: Mapping[Part, Entry], turned: bool) -> None:
    """Raises InvalidRequest where an adapter's tensors do not stand beside a model's matrices, BadCheckpoint where they
    do not belong together."""
    matrices, names = matrices_of(config), {matrix for matrix, _ in parts}
    if not names:
        raise BadCheckpoint(f"{path} holds no tensor. {FETCH_AGAIN}")
    if strange := sorted(names - matrices.keys()):
        raise InvalidRequest(f"{path} was made for another model: this one's layers have no {some(strange)}.",
                             "Name the model that the adapter was made for.")  # fmt: skip
    for matrix in names:
        if (matrix, A) not in parts or (matrix, B) not in parts:
            raise BadCheckpoint(f"{path} holds one half of the sum beside {matrix}. {FETCH_AGAIN}")
        O, I = matrices[matrix]
        rank = parts[matrix, A].shape[0 if turned else -1] if parts[matrix, A].shape else 0
        a, b = ((rank, I), (O, rank)) if turned else ((I, rank), (rank, O))
        for part, shape in ((A, a), (B, b), (M, (O,))):
            if (entry := parts.get((matrix, part))) and (entry.shape != shape or not entry.is_float):
                raise InvalidRequest(f"{path}: a tensor beside {matrix} has shape {entry.shape} and type "
                                     f"{entry.dtype}; floats of {shape} belong there.",
                                     "Name the model that the adapter was made for.")  # fmt: skip
        if not 0 < rank <= MOST_RANK:
            raise BadCheckpoint(f"{path}: the sum beside {matrix} has rank {rank}; it must be 1 to {MOST_RANK}.")


def low_ranks(
    path: Path, arrays: Mapping[Part, mx.array], turned: bool, scale_of: Callable[[str], float]
) -> dict[str, LowRank]:
    """The sums by their matrices, evaluated, each b multiplied with its scale. Raises BadCheckpoint for numbers that
    are NaN or infinite, and for a file that changed since its header was read."""
    made = {}
    for matrix in sorted({matrix for matrix, _ in arrays}):
        a, b = arrays[matrix, A], arrays[matrix, B]
        if turned:
            a, b = mx.contiguous(a.T), b.T
        made[matrix] = LowRank(a, mx.contiguous(b * scale_of(matrix)), arrays.get((matrix, M)))
    try:
        mx.eval([part for one in made.values() for part in parts_of(one)])
    except RuntimeError as error:
        raise BadCheckpoint(f"MLX cannot read {path}: {error}. {FETCH_AGAIN}") from error
    for matrix, one in made.items():
        if not all(mx.isfinite(part).all().item() for part in parts_of(one)):
            raise BadCheckpoint(f"{path}: the sum beside {matrix} has numbers that are NaN or infinite. {FETCH_AGAIN}")
    return made


def parts_of(one: LowRank) -> list[mx.array]:
    """The arrays that there are of a sum."""
    return [one.a, one.b, *([one.m] if one.m is not None else [])]
