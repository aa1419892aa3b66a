"""MLX's own files: how one is recognised, and quantized weights as plain ones, each expanded when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from elm_mlx.config.quantization import ROW_SCALES, Quantization
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import reading
from elm_mlx.store.stored_form import expand, stored_parts
from elm_mlx.store.weights import Entry

Settings = dict[str, Quantization]


def is_mlx(path: Path) -> bool:
    """Whether MLX wrote this file: its header, which has been checked before, names the format."""
    if path.suffix != ".safetensors":
        return False
    with reading(path), path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return (header.get("__metadata__") or {}).get("format") == "mlx"


def expand_quantized(
    where: Path, tensors: Mapping[str, LazyTensor], quantization: Quantization | None
) -> tuple[dict[str, LazyTensor], Settings]:
    """Returns the tensors, each quantized matrix as one of float32 that is expanded when it is read, and its settings.

    Raises BadCheckpoint for parts that do not fit each other.
    """
    plain, settings = dict(tensors), Settings()
    for name in tensors:
        stem = name.removesuffix("weight")
        setting = quantization.setting(stem.removesuffix(".")) if quantization else None
        if setting and stem != name and f"{stem}scales" in tensors:
            settings[name] = replace(setting, overrides={})
            parts = (f"{stem}{part}" for part in ("scales", "biases", ROW_SCALES))
            stored = {part: plain.pop(part) for part in parts if part in tensors}
            plain[name] = expand_weight(where, name, {name: tensors[name]} | stored, settings[name])
    return plain, settings


def expand_weight(where: Path, name: str, stored: dict[str, LazyTensor], setting: Quantization) -> LazyTensor:
    """One weight [out, in], which is expanded when it is read. Raises BadCheckpoint for parts that do not fit."""
    words = stored[name].shape
    shape = (words[0], words[1] * 32 // setting.bits) if len(words) == 2 else words
    expected = stored_parts(name, shape, setting, mx.float32) if len(shape) == 2 else {}
    if forms(expected) != forms(stored):
        raise BadCheckpoint(f"{where}: the parts of {name} do not fit the quantization in config.json ({setting.bits} "
                            f"bits, groups of {setting.group_size}). Take both from the same repository.")  # fmt: skip
    return LazyTensor(shape, mx.float32, partial(read_expanded, name, stored, setting))


def forms(tensors: Mapping[str, Entry] | Mapping[str, LazyTensor]) -> dict[str, tuple[object, ...]]:
    """Shape and type of each tensor by name; None for any floating type, as one may stand for another."""
    return {n: (t.shape, None if mx.issubdtype(t.dtype, mx.floating) else t.dtype) for n, t in tensors.items()}


def read_expanded(name: str, stored: dict[str, LazyTensor], setting: Quantization) -> mx.array:
    """Reads the parts of a quantized weight and expands it to float32."""
    return expand({part: tensor.read() for part, tensor in stored.items()}, setting, mx.float32)[name]
