"""Quantized matrices on disk: which tensors one becomes, and their shapes, in mlx-lm's layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx

from elm_mlx.config import ModelConfig, Shape
from elm_mlx.config.quantization import QUANTIZATION_MODES, ROW_SCALES, Quantization
from elm_mlx.errors import BadCheckpoint, Unsupported
from elm_mlx.store.weights import Entry


def stored_parts(name: str, shape: Shape, setting: Quantization | None, dtype: mx.Dtype) -> dict[str, Entry]:
    """The tensors that a weight (out, in) is stored as: packed words, scales, in affine mode biases, and where the
    setting says so a float32 for each row. Without a setting it is one tensor, the weight itself."""
    if setting is None:
        return {name: Entry(dtype, shape)}
    *rows, columns = shape  # several matrices may be stored as one, those of experts
    stem = name.removesuffix("weight")
    affine = setting.mode == "affine"
    groups = Entry(dtype if affine else mx.uint8, (*rows, columns // setting.group_size))
    stored = {f"{stem}weight": Entry(mx.uint32, (*rows, columns * setting.bits // 32)), f"{stem}scales": groups}
    stored |= {f"{stem}biases": groups} if affine else {}
    return stored | ({f"{stem}{ROW_SCALES}": Entry(mx.float32, (*rows,))} if setting.rows else {})


def quantize(name: str, weight: mx.array, setting: Quantization | None) -> dict[str, mx.array]:
    """Quantizes one weight (out, in): the arrays of its `stored_parts`, by name. Raises Unsupported for a setting with
    a float for each row, which only what an FP8 checkpoint has is stored in."""
    if setting is None:
        return {name: weight}
    if setting.rows:
        raise Unsupported(f"{name} cannot get {ROW_SCALES}: only weights of an FP8 checkpoint have them.")
    arrays = mx.quantize(weight, group_size=setting.group_size, bits=setting.bits, mode=setting.mode)
    return dict(zip(stored_parts(name, weight.shape, setting, weight.dtype), arrays, strict=True))


def stored_entries(config: ModelConfig, dtype: mx.Dtype, is_quantized: Callable[[str], bool]) -> dict[str, Entry]:
    """The tensors of a checkpoint as they are stored, floats in `dtype`; `is_quantized` says whether a weight that the
    configuration would quantize really is."""
    entries: dict[str, Entry] = {}
    for name, shape in config.weight_shapes().items():
        setting = config.quantization.of(name, shape) if config.quantization else None
        entries |= stored_parts(name, shape, setting if is_quantized(name) else None, dtype)
    return entries


def refuse_lost_quantization(config: Path, stored: Mapping[str, Entry], shapes: Mapping[str, Shape]) -> None:
    """Raises BadCheckpoint for quantized matrices among the tensors of a checkpoint whose file `config` says nothing of
    quantization. With the `shapes` of the plain weights the error tells the setting, if all matrices have the same.
    """
    names = [name for name, entry in stored.items() if name.endswith(".weight") and entry.dtype == mx.uint32]
    quantized = [name for name in names if f"{name.removesuffix('weight')}scales" in stored]
    if not quantized:
        return
    settings = {json.dumps(told.to_dict()) for told in (told_setting(n, stored, shapes) for n in quantized) if told}
    add = f' Or add "quantization": {settings.pop()} to it, which fits their shapes.' if len(settings) == 1 else ""
    raise BadCheckpoint(f"{config} has lost its key `quantization`, which says in how many bits the weights are: "
                        f"{len(quantized)} of them are quantized ({quantized[0]} has .scales). Take config.json from "
                        f"the repository of the weights.{add}")  # fmt: skip


def told_setting(name: str, stored: Mapping[str, Entry], shapes: Mapping[str, Shape]) -> Quantization | None:
    """The setting that a quantized matrix has by the shapes of its parts; None where none fits, or its plain shape is
    not known."""
    if len(shapes.get(name, ())) != 2:
        return None
    parts = [name.removesuffix("weight") + part for part in ("weight", "scales", "biases")]
    there = {part: stored[part].shape for part in parts if part in stored}
    for mode, (bits, sizes) in QUANTIZATION_MODES.items():
        for setting in (Quantization(count, size, mode) for count in bits for size in sizes):
            expected = stored_parts(name, shapes[name], setting, mx.float32)
            if there == {part: entry.shape for part, entry in expected.items()}:
                return setting
    return None


def expand(arrays: Mapping[str, mx.array], quantization: Quantization, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Expands every quantized matrix to floats of type `dtype`, lazily; affine scales and biases are cast first."""
    plain = {}
    for name, array in arrays.items():
        stem = name.removesuffix("weight")
        how = quantization.setting(stem.removesuffix("."))
        if how and name.endswith(".weight") and f"{stem}scales" in arrays:
            scales, biases = arrays[f"{stem}scales"], arrays.get(f"{stem}biases")
            if biases is not None:
                scales, biases = scales.astype(dtype), biases.astype(dtype)
            plain[name] = mx.dequantize(array, scales, biases, how.group_size, how.bits, how.mode, dtype=dtype)
            if how.rows:
                plain[name] = (plain[name] * arrays[f"{stem}{ROW_SCALES}"][:, None]).astype(dtype)
        elif not name.endswith((".scales", ".biases", f".{ROW_SCALES}")):
            plain[name] = array
    return plain
