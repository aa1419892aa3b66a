"""Quantized MLX weights as plain ones, each expanded when it is read; and what tells a directory of MLX's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import reading
from elm_mlx.store.stored_form import expand, stored_parts
from elm_mlx.store.weights import Entry

Settings = dict[str, Quantization]


def is_mlx(path: Path) -> bool:
    """Whether MLX wrote this file, whose header has been checked: it says so there."""
    if path.suffix != ".safetensors":
        return False
    with reading(path), path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return (header.get("__metadata__") or {}).get("format") == "mlx"


def dequantized(
    where: Path, tensors: Mapping[str, LazyTensor], quantization: Quantization | None
) -> tuple[dict[str, LazyTensor], Settings]:
    """The tensors with each quantized matrix as one of float32, and the settings of those that were quantized.

    Raises BadCheckpoint for parts that do not fit each other.
    """
    plain, settings = dict(tensors), Settings()
    for name in tensors:
        stem = name.removesuffix("weight")
        setting = quantization.setting(stem.removesuffix(".")) if quantization else None
        if setting and stem != name and f"{stem}scales" in tensors:
            settings[name] = replace(setting, overrides={})
            stored = {part: plain.pop(part) for part in (f"{stem}scales", f"{stem}biases") if part in tensors}
            plain[name] = expanded(where, name, {name: tensors[name]} | stored, settings[name])
    return plain, settings


def expanded(where: Path, name: str, stored: dict[str, LazyTensor], setting: Quantization) -> LazyTensor:
    """One weight [out, in] out of its packed words, scales and biases."""
    words = stored[name].shape
    shape = (words[0], words[1] * 32 // setting.bits) if len(words) == 2 else words
    expected = stored_parts(name, shape, setting, mx.float32) if len(shape) == 2 else {}
    if forms(expected) != forms(stored):
        raise BadCheckpoint(f"{where}: the parts of {name} do not fit the quantization in config.json ({setting.bits} "
                            f"bits, groups of {setting.group_size}). Take both from the same repository.")  # fmt: skip
    return LazyTensor(shape, mx.float32, partial(expand_now, name, stored, setting))


def forms(tensors: Mapping[str, Entry] | Mapping[str, LazyTensor]) -> dict[str, tuple[object, ...]]:
    """The shapes, and the types where they are none of the floating ones, which stand for each other."""
    return {n: (t.shape, None if mx.issubdtype(t.dtype, mx.floating) else t.dtype) for n, t in tensors.items()}


def expand_now(name: str, stored: dict[str, LazyTensor], setting: Quantization) -> mx.array:
    """The elements of a quantized weight in float32."""
    return expand({part: tensor.read() for part, tensor in stored.items()}, setting, mx.float32)[name]
