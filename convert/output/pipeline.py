"""Reads, casts, quantizes and writes weights; in memory are some rows of the source, and one weight as it is stored."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import prod
from operator import attrgetter
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.arguments import Progress
from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.finite import largest
from elm_mlx.convert.keymap import Matched
from elm_mlx.convert.output.journal import Journal, checksum, read_checksum
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, NotFinite
from elm_mlx.files import write_json
from elm_mlx.store.stored_form import quantize, stored_parts
from elm_mlx.store.weights import Entry, Writer, file_head

Parts = Mapping[str, Callable[[], dict[str, mx.array]]]
"""For weights that need no converting a function that reads what each is stored as, by tensor."""

AHEAD_BYTES = CACHE_BYTES = 48 * 2**20  # small beside the 200 MB that a conversion may take beside its tensors


@dataclass(frozen=True)
class Shards:
    """The weights files that will be written, known to the byte before anything is read.

    `stored` maps each weight to the entries that it becomes, `groups` lists the weights of each file in order.
    `allow_nonfinite`: NaN and infinite weights are let through, else refused.
    """

    dtype: mx.Dtype
    settings: dict[str, Quantization | None]
    stored: dict[str, dict[str, Entry]]
    groups: list[list[str]]
    allow_nonfinite: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(map(self.size, self.stored))

    def size(self, name: str) -> int:
        """Bytes of one weight."""
        return sum(entry.nbytes for entry in self.stored[name].values())

    @property
    def files(self) -> dict[str, list[str]]:
        """The weights of each file by its name: `model.safetensors`, or model-00001-of-00003.safetensors."""
        count = len(self.groups)
        names = [f"model-{number:05d}-of-{count:05d}" for number in range(1, count + 1)] if count > 1 else ["model"]
        return {f"{name}.safetensors": weights for name, weights in zip(names, self.groups, strict=True)}

    def entries(self, names: list[str]) -> dict[str, Entry]:
        """The tensors that a file of these weights holds, by name."""
        return {part: entry for name in names for part, entry in self.stored[name].items()}


@dataclass(frozen=True)
class StoredRows:
    """Rows of a weight as they are stored: `parts`, by the tensor's name. `nbytes` is their size at the source, `peaks`
    [2] their largest magnitude there and once it is cast."""

    name: str
    nbytes: int
    parts: dict[str, mx.array]
    peaks: mx.array

    def wait(self) -> StoredRows:
        """Waits until the rows are computed, and returns them; mx.eval would wait for all other work of MLX, too."""
        for array in self.parts.values():
            memoryview(array)  # type: ignore[arg-type]
        return self


def plan_shards(
    config: ModelConfig,
    quantization: Quantization | None,
    dtype: mx.Dtype,
    shard_bytes: int,
    allow_nonfinite: bool = False,
) -> Shards:
    """Divides a model's weights among files: a weight is never split, so one above `shard_bytes` has its own file."""
    settings: dict[str, Quantization | None] = {}
    stored: dict[str, dict[str, Entry]] = {}
    groups: list[list[str]] = [[]]
    filled = 0
    for name, shape in config.weight_shapes().items():
        setting = settings[name] = quantization.of(name, shape) if quantization else None
        stored[name] = stored_parts(name, shape, setting, dtype)
        size = sum(entry.nbytes for entry in stored[name].values())
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return Shards(dtype, settings, stored, groups, allow_nonfinite)


def resume(folder: Path, shards: Shards, journal: Journal) -> set[str]:
    """Finds the weights that a killed run has written to `folder`, by reading back what the journal lists. They are the
    first ones of `shards`; all other files in the folder, and lines of the journal, are removed."""
    claims = journal.claims()
    done: list[str] = []
    begun: list[str] = []
    for file, names in shards.files.items():
        if count := count_intact(folder / file, shards, names, claims[len(done) :]):
            begun.append(file)
            done += names[:count]
        if count < len(names):
            break
    journal.keep_first(len(done))
    for path in folder.iterdir():
        if path.name not in begun:
            path.unlink()
    return set(done)


def count_intact(path: Path, shards: Shards, names: list[str], claims: list[tuple[str, str]]) -> int:
    """How many of a file's weights, from the first on, have the checksums in `claims`."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(len(file_head(shards.entries(names))))
        pairs = list(zip(names, claims, strict=False))
        wrong = (i for i, (name, claim) in enumerate(pairs) if claim != (read_checksum(file, shards.size(name)), name))
        return next(wrong, len(pairs))


def write_shards(
    folder: Path,
    shards: Shards,
    source: Matched,
    done: set[str],
    journal: Journal,
    progress: Progress | None,
    ready: Parts | None = None,
) -> None:
    """Writes the files of `shards` and their index; the weights that are `done` stay as they are, and those that are
    `ready` are copied from there.

    Raises NotFinite for a weight of the source that is NaN or infinite, BadCheckpoint for one that would become so.
    """
    sizes = {name: source_bytes(tensor) for name, tensor in source.tensors.items()}
    reached, total = sum(sizes[name] for name in done), sum(sizes.values())
    places: dict[str, str] = {}
    blocks_of_all = convert_blocks(shards, source, [name for name in shards.stored if name not in done], ready or {})
    weights = groupby(blocks_of_all, key=attrgetter("name"))
    for file, names in shards.files.items():
        entries, left = shards.entries(names), [name for name in names if name not in done]
        places |= dict.fromkeys(entries, file)
        with limit_freed_buffers(), Writer(folder / file, entries, len(entries) - len(shards.entries(left))) as writer:
            for name in left:
                _, blocks = next(weights)
                journal.add(name, write_weight(writer, list(blocks)))
                reached += sizes[name]
                if progress:
                    progress(reached, total)
    index = {"metadata": {"total_size": shards.nbytes}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


@contextmanager
def limit_freed_buffers() -> Iterator[None]:
    """Lets MLX keep few freed buffers; else it keeps some of every size. Clearing them would wait for all its work."""
    before = mx.set_cache_limit(CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def write_weight(writer: Writer, blocks: list[StoredRows]) -> str:
    """Appends a weight, part by part, and returns the checksum of its bytes."""
    written = (writer.write(part, *(block.parts[part] for block in blocks)) for part in blocks[0].parts)
    return checksum(data for part in written for data in part)


def convert_blocks(shards: Shards, source: Matched, names: list[str], ready: Parts) -> Iterator[StoredRows]:
    """Converts the weights `names` block by block, and checks each block; while the caller has one, MLX computes
    AHEAD_BYTES of the next ones. One that is `ready` is a block."""

    def next_block() -> StoredRows:
        block = running.popleft().wait()
        check_peaks(source.names[block.name], block.peaks, shards.dtype)
        return block

    running: deque[StoredRows] = deque()
    for name in names:
        for rows in blocks_of(name, shards, source, ready):
            running.append(rows)
            mx.async_eval(*running[-1].parts.values(), running[-1].peaks)
            while sum(block.nbytes for block in running) > AHEAD_BYTES:
                yield next_block()
    while running:
        yield next_block()


def blocks_of(name: str, shards: Shards, source: Matched, ready: Parts) -> Iterator[StoredRows]:
    """The blocks of a weight, not computed yet."""
    if name in ready:
        yield StoredRows(name, source_bytes(source.tensors[name]), ready[name](), mx.zeros(2))
        return
    for rows in source.tensors[name].blocks():
        yield StoredRows(name, rows.nbytes, convert_rows(name, rows, shards), peaks(rows, shards))


def convert_rows(name: str, rows: mx.array, shards: Shards) -> dict[str, mx.array]:
    """Converts rows of one weight to what is stored: casts them, then quantizes them where `shards` says so."""
    return quantize(name, rows.astype(shards.dtype), shards.settings[name])


def peaks(rows: mx.array, shards: Shards) -> mx.array:
    """The largest magnitude in `rows`, as it is and cast: [2]. Where they are allowed, NaN and infinity do not count.
    A cast keeps the order of numbers, so that of the largest stands for all."""
    peak = largest(mx.where(mx.isfinite(rows), rows, 0) if shards.allow_nonfinite else rows)
    return mx.stack([peak.astype(mx.float32), peak.astype(shards.dtype).astype(mx.float32)])


def check_peaks(name: str, peaks: mx.array, dtype: mx.Dtype) -> None:
    """Raises NotFinite for a tensor `name` of the source with NaN or infinity in it, BadCheckpoint for one with numbers
    that `dtype` cannot hold."""
    there, cast = np.array(peaks).tolist()
    if not math.isfinite(there):
        raise NotFinite(
            f"{name} of the source holds {'NaN' if math.isnan(there) else 'infinity'}: its file is damaged, or it was "
            "saved so. Fetch it again;",
            "`elm-mlx convert` takes it all the same with {allow_nonfinite=True}.",
        )
    if not math.isfinite(cast):
        other = "bfloat16" if dtype == mx.float16 and there <= mx.finfo(mx.bfloat16).max else "float32"
        raise BadCheckpoint(f"{name} has values above {mx.finfo(dtype).max:g}, which {dtype_name(dtype)} cannot hold.",
                            f"Use {{dtype={other}}}.")  # fmt: skip


def dtype_name(dtype: mx.Dtype) -> str:
    """What the option `dtype` calls a type."""
    return str(dtype).removeprefix("mlx.core.")


def element_count(tensor: LazyTensor) -> int:
    """How many elements a tensor has."""
    return prod(tensor.shape)


def source_bytes(tensor: LazyTensor) -> int:
    """Bytes of a tensor as it was published."""
    return Entry(tensor.dtype, tensor.shape).nbytes
