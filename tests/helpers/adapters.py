"""Adapters of made numbers, and checkpoints that have the same sums within their matrices, by the papers' formulas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx

from elm_mlx.config import config_from_dict
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import matrices_of
from elm_mlx.store.adapters.write import MLX, PEFT, Written, write_adapter

RANK = 4
WEIGHTS = {MLX: "adapters.safetensors", PEFT: "adapter_model.safetensors"}


def config_of(source: Path):  # type: ignore[no-untyped-def]
    """The configuration in a directory."""
    return config_from_dict(json.loads((source / "config.json").read_text(encoding="utf-8")))


def made_sums(
    source: Path, seed: int = 0, *, dora: bool = False, rank: int = RANK, ends: tuple[str, ...] = ("",)
) -> dict[str, LowRank]:
    """Sums beside the matrices of a checkpoint whose names end so, as large as the matrices themselves."""
    made = {}
    chosen = [(name, shape) for name, shape in matrices_of(config_of(source)).items() if name.endswith(ends)]
    for number, (name, (O, I)) in enumerate(chosen):
        keys = mx.random.split(mx.random.key(1000 * seed + number), 3)
        a = 0.1 * mx.random.normal((I, rank), key=keys[0])
        b = mx.random.normal((rank, O), key=keys[1])
        m = 1 + mx.random.uniform(shape=(O,), key=keys[2]) if dora else None
        made[name] = LowRank(a, b, m)
    return made


def write_sums(folder: Path, source: Path, sums: Mapping[str, LowRank], layout: str = MLX, scale: float = 1.0) -> Path:
    """Writes an adapter of a checkpoint."""
    write_adapter(folder, Written(sums, scale=scale), config_of(source), layout)
    return folder


def merged_copy(source: Path, folder: Path, sums: Mapping[str, LowRank], scale: float = 1.0) -> Path:
    """A copy of a float checkpoint that has the sums within its matrices."""
    shutil.copytree(source, folder)
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    for name, one in sums.items():
        weight = arrays[f"{name}.weight"] + scale * (one.a @ one.b).T
        if one.m is not None:
            weight = weight * (one.m / mx.linalg.norm(weight, axis=1))[:, None]
        arrays[f"{name}.weight"] = weight
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "pt"})
    return folder


def arrays_in(folder: Path, layout: str) -> dict[str, mx.array]:
    """The tensors in an adapter's file."""
    found = mx.load(str(folder / WEIGHTS[layout]))
    assert isinstance(found, dict)
    return found


def change(folder: Path, layout: str, **arrays: mx.array | None) -> None:
    """Replaces the tensors whose names end so; None takes them out."""
    found = arrays_in(folder, layout)
    for end, array in arrays.items():
        name = next(name for name in found if name.endswith(end.replace("__", ".")))
        del found[name]
        if array is not None:
            found[name] = array
    mx.eval(found)
    mx.save_safetensors(str(folder / WEIGHTS[layout]), found)
