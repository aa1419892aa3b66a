"""Read, cast, quantize, write: one tensor in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.config import ModelConfig
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint
from elm_mlx.quantization import Quantization
from elm_mlx.store.files import write_json
from elm_mlx.store.quantize import parts, quantize
from elm_mlx.store.weights import Entry, Writer


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
        return sum(entry.nbytes for entries in self.stored.values() for entry in entries.values())


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


def write(folder: Path, plan: Plan, tensors: dict[str, LazyTensor], progress: Progress | None) -> None:
    """Writes the plan's files and their index, taking each of `tensors` out as it is done."""
    total = sum(_source_bytes(tensor) for tensor in tensors.values())
    done = 0
    places: dict[str, str] = {}
    for number, names in enumerate(plan.shards, start=1):
        file = shard_name(number, len(plan.shards))
        entries = {part: entry for name in names for part, entry in plan.stored[name].items()}
        places |= dict.fromkeys(entries, file)
        with Writer(folder / file, entries) as writer:
            for name in names:
                tensor = tensors.pop(name)
                for part, array in converted(name, tensor, plan).items():
                    writer.write(part, array)
                done += _source_bytes(tensor)
                mx.clear_cache()  # else MLX keeps the freed buffers of every size met
                if progress:
                    progress(done, total)
    index = {"metadata": {"total_size": plan.nbytes}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def shard_name(number: int, count: int) -> str:
    """`model.safetensors`, or model-00001-of-00003.safetensors."""
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def converted(name: str, tensor: LazyTensor, plan: Plan) -> dict[str, mx.array]:
    """One weight as it is stored: cast, then quantized where the plan says so."""
    weight = tensor.read()
    cast = weight.astype(plan.dtype)
    if plan.dtype == mx.float16 and bool(mx.any(mx.isinf(cast) & ~mx.isinf(weight))):
        raise BadCheckpoint(f"{name} has values above 65504, which float16 cannot hold. Use --dtype bfloat16.")
    return quantize(name, cast, plan.settings[name])


def _source_bytes(tensor: LazyTensor) -> int:
    return Entry(tensor.dtype, tensor.shape).nbytes
