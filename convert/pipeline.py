"""Read, cast, quantize, write: a few tensors in memory at a time, and never two large ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.config import ModelConfig
from elm_mlx.convert.journal import Journal, checksum, read_checksum
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint
from elm_mlx.quantization import Quantization
from elm_mlx.store.files import write_json
from elm_mlx.store.quantize import parts, quantize
from elm_mlx.store.weights import Entry, Writer, file_head

AHEAD_BYTES = 64 * 2**20  # of source, beyond the largest tensor, that is worked on while another is written
CACHE_BYTES = 64 * 2**20

Parts = dict[str, mx.array]
"""Rows of a weight by the tensors that it is stored as."""


@dataclass(frozen=True)
class Plan:
    """What will be written, known to the byte before anything is read.

    `stored` maps each weight to the entries it becomes, `shards` is the weights of each file in order.
    """

    dtype: mx.Dtype
    settings: dict[str, Quantization | None]
    stored: dict[str, dict[str, Entry]]
    shards: list[list[str]]

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
        count = len(self.shards)
        names = [f"model-{number:05d}-of-{count:05d}" for number in range(1, count + 1)] if count > 1 else ["model"]
        return {f"{name}.safetensors": weights for name, weights in zip(names, self.shards, strict=True)}

    def entries(self, names: list[str]) -> dict[str, Entry]:
        """What the file of these weights holds."""
        return {part: entry for name in names for part, entry in self.stored[name].items()}


def plan(config: ModelConfig, quantization: Quantization | None, dtype: mx.Dtype, shard_bytes: int) -> Plan:
    """The files for a model: a weight is never split, so one above `shard_bytes` gets a file of its own."""
    settings: dict[str, Quantization | None] = {}
    stored: dict[str, dict[str, Entry]] = {}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in config.weight_shapes().items():
        setting = settings[name] = quantization.of(name, shape) if quantization else None
        stored[name] = parts(name, shape, setting, dtype)
        size = sum(entry.nbytes for entry in stored[name].values())
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return Plan(dtype, settings, stored, shards)


def resume(folder: Path, plan: Plan, journal: Journal) -> set[str]:
    """The weights that a killed run has written to `folder`, read back and found to be what the journal says.
    They are the plan's first; what else is there is removed."""
    claims = journal.claims()
    done: list[str] = []
    begun: list[str] = []
    for file, names in plan.files.items():
        if count := intact(folder / file, plan, names, claims[len(done) :]):
            begun.append(file)
            done += names[:count]
        if count < len(names):
            break
    journal.keep(len(done))
    for path in folder.iterdir():
        if path.name not in begun:
            path.unlink()
    return set(done)


def intact(path: Path, plan: Plan, names: list[str], claims: list[tuple[str, str]]) -> int:
    """How many of a file's weights, from its first on, are as claimed."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(len(file_head(plan.entries(names))))
        pairs = list(zip(names, claims, strict=False))
        wrong = (i for i, (name, claim) in enumerate(pairs) if claim != (read_checksum(file, plan.size(name)), name))
        return next(wrong, len(pairs))


def write(
    folder: Path,
    plan: Plan,
    tensors: dict[str, LazyTensor],
    done: set[str],
    journal: Journal,
    progress: Progress | None,
) -> None:
    """Writes the plan's files and their index, all but the weights that are `done`."""
    sizes = {name: source_bytes(tensor) for name, tensor in tensors.items()}
    reached, total = sum(sizes[name] for name in done), sum(sizes.values())
    places: dict[str, str] = {}
    weights = converting(plan, {name: tensors[name] for name in plan.stored if name not in done})
    for file, names in plan.files.items():
        entries, left = plan.entries(names), [name for name in names if name not in done]
        places |= dict.fromkeys(entries, file)
        with small_cache(), Writer(folder / file, entries, len(entries) - len(plan.entries(left))) as writer:
            for name in left:
                journal.add(name, write_weight(writer, next(weights)))
                reached += sizes[name]
                if progress:
                    progress(reached, total)
    index = {"metadata": {"total_size": plan.nbytes}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


@contextmanager
def small_cache() -> Iterator[None]:
    """MLX otherwise keeps freed buffers of every size met. Clearing its cache would wait for all that it has to do."""
    before = mx.set_cache_limit(CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def write_weight(writer: Writer, blocks: list[Parts]) -> str:
    """Appends what a weight is stored as, given in blocks of its rows; the checksum of its bytes."""
    written = (writer.write(part, *(block[part] for block in blocks)) for part in blocks[0])
    return checksum(data for part in written for data in part)


def converting(plan: Plan, tensors: dict[str, LazyTensor]) -> Iterator[list[Parts]]:
    """Each weight as it is stored. While the caller writes one, MLX works on the next ones already: as many as are no
    larger together, at their source, than the largest of all and AHEAD_BYTES."""
    sizes = {name: source_bytes(tensor) for name, tensor in tensors.items()}
    limit = max(sizes.values(), default=0) + AHEAD_BYTES
    started: dict[str, list[Parts]] = {}
    for name, tensor in tensors.items():
        while started and sum(sizes[other] for other in started) + sizes[name] > limit:
            yield started.pop(next(iter(started)))
        started[name] = converted(name, tensor, plan)
    while started:
        yield started.pop(next(iter(started)))


def converted(name: str, tensor: LazyTensor, plan: Plan) -> list[Parts]:
    """One weight as it is stored, in blocks of its rows that MLX has begun to work on."""
    begun = []
    for weight in tensor.blocks():
        cast = weight.astype(plan.dtype)
        if plan.dtype == mx.float16 and bool(mx.any(mx.isinf(cast) & ~mx.isinf(weight))):
            raise BadCheckpoint(f"{name} has values above 65504, which float16 cannot hold. Use --dtype bfloat16.")
        begun.append(quantize(name, cast, plan.settings[name]))
        mx.async_eval(*begun[-1].values())
    return begun


def elements(tensor: LazyTensor) -> int:
    """How many elements a tensor has."""
    return prod(tensor.shape)


def source_bytes(tensor: LazyTensor) -> int:
    """Bytes of a tensor as it was published."""
    return Entry(tensor.dtype, tensor.shape).nbytes
