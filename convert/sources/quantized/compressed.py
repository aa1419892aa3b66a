"""compressed-tensors' matrices: 8-bit floats, and whole numbers packed or in bytes.

Layouts (vllm-project/compressed-tensors, src/compressed_tensors/compressors: quantized_compressors/naive_quantized.py
and pack_quantized.py, `pack_to_int32`; quantization/lifecycle/forward.py, `dequantize`), for a matrix [out, in]:

    float-quantized  weight float8 [out, in], weight_scale [out, 1], [1] or of blocks
    int-quantized    weight int8 [out, in], weight_scale [out, 1], [1] or [out, groups]
                     weight_zero_point int8 of the same shape, where it is not symmetric
    pack-quantized   weight_packed int32 [out, in * bits / 32], numbers + 2^(bits - 1), lowest bits first, without gaps
                     (older versions left gaps in 3, 5, 6 and 7 bits, which are refused by their shape)
                     weight_scale [out, groups], weight_shape [2], weight_g_idx int32 [in] (actorder "group")
                     weight_zero_point int32 [out * bits / 32, groups], packed along the outputs in the same way
    value            = scale * (number - zero), or scale * number

Which of them a matrix has is seen by its tensors. Activations stay floats, as with other FP8 checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from elm_mlx.config.values import MAX_WIDTH, Values
from elm_mlx.convert.sources.quantized import fp8
from elm_mlx.convert.sources.quantized.bits import as_words, numbers_of, rows_of
from elm_mlx.convert.sources.quantized.floats8 import Floats8
from elm_mlx.convert.sources.quantized.integers import Integers, Rows
from elm_mlx.convert.sources.quantized.parts import WHOLE, Parts, matrices, regular_size
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import Unsupported

FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "dense", "mixed-precision")
PACKED = "weight_packed"
PARTS = ("weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape", "bias")
BITS = (2, 3, 4, 5, 6, 8)
PRESET_SIZE = 128  # of the groups of W4A16 and the like, which a configuration may give by name alone
REMEDY = "Take the weights from before they were quantized."


def read(
    where: Path, settings: Values, tensors: Mapping[str, LazyTensor]
) -> list[tuple[Parts, Integers] | tuple[Parts, Floats8]]:
    """compressed-tensors' matrices among the tensors; `settings` is the object of the configuration.

    Raises Unsupported for a form of this library's that is another one, BadCheckpoint for parts that do not fit.
    """
    refuse_other_forms(settings)
    groups = list(weight_groups(settings))
    blocks = next((block for group in groups if (block := block_structure(group))), None)
    found: list[tuple[Parts, Integers] | tuple[Parts, Floats8]] = []
    for parts in matrices(where, tensors, "weight", PARTS):
        if fp8.is_float8(parts.tensors["weight"]):
            found.append((parts, fp8.matrix(parts, blocks)))
        elif parts.tensors["weight"].dtype == mx.int8:
            found.append((parts, in_bytes(parts, sizes_of(groups))))
    packed = matrices(where, tensors, PACKED, PARTS)
    return [*found, *((parts, packed_words(parts, sizes_of(groups))) for parts in packed)]


def refuse_other_forms(settings: Values) -> None:
    """Raises Unsupported for a format that is not among FORMATS, in a group too, and for rotated or sparse weights."""
    forms = [settings.get("format"), *(group.get("format") for group in config_groups(settings))]
    for form in forms:
        if form is not None and form not in FORMATS:
            raise Unsupported(f"{settings.where}: compressed-tensors in the format {form!r:.40} is not one that "
                              f"elm-mlx reads; it reads {', '.join(FORMATS)}. {REMEDY}")  # fmt: skip
    if settings.section("transform_config").get("config_groups"):
        raise Unsupported(f"{settings.where}: transform_config says that weights are rotated, and rotations have to be "
                          f"applied while the model runs. {REMEDY}")  # fmt: skip
    sparse = settings.section("sparsity_config").get("format", "dense")
    if sparse != "dense":
        raise Unsupported(f"{settings.where}: the weights are stored sparse ({sparse!r:.40}), which elm-mlx does not "
                          f"read. {REMEDY}")  # fmt: skip


def config_groups(settings: Values) -> Iterator[Values]:
    """The groups of layers that the configuration describes; a preset's name stands beside a list of its layers."""
    groups = settings.section("config_groups")
    for name, group in groups.raw.items():
        if not isinstance(group, list):
            yield groups.section(name)


def weight_groups(settings: Values) -> Iterator[Values]:
    """What the configuration says of the weights of each group of layers."""
    for group in config_groups(settings):
        if group.get("weights") is not None:
            yield group.section("weights")


def block_structure(weights: Values) -> tuple[int, int] | None:
    """The block that shares a scale: a list of two, or as "128x128"."""
    raw: Any = weights.get("block_structure")
    if isinstance(raw, str):
        raw = [int(part) if part.isdecimal() and len(part) < 8 else part for part in raw.split("x")]
    return fp8.block_size(weights, raw)


def sizes_of(groups: list[Values]) -> set[int]:
    """The sizes of groups of columns that the configuration may mean."""
    return {PRESET_SIZE} | {group.integer("group_size", -1, MAX_WIDTH, -1) for group in groups}


def packed_words(parts: Parts, sizes: set[int]) -> Integers:
    """A matrix of packed numbers. Raises BadCheckpoint."""
    words, scales = parts.matrix(PACKED, WHOLE), parts.matrix("weight_scale")
    rows, inputs = shape_of(parts)
    bits = words.shape[1] * 32 // inputs
    if bits not in BITS or words.shape != (rows, inputs * bits // 32) or inputs % 32:
        raise parts.wrong(f"{PACKED} is {parts.form(PACKED)}, and weight_shape says {rows} x {inputs}: elm-mlx reads "
                          f"{', '.join(map(str, BITS))} bits without gaps, of a multiple of 32 inputs")  # fmt: skip
    groups = scales.shape[1]
    parts.expect("weight_scale", (rows, groups))
    parts.expect("weight_zero_point", (-(-rows * bits // 32), groups))
    indices = parts.group_indices("weight_g_idx", inputs, groups)
    size = regular_size(indices) if indices is not None else group_size(parts, sizes, inputs, groups)
    if size and -(-inputs // size) != groups:
        raise parts.wrong(f"weight_scale has {groups} groups, and weight_g_idx makes {-(-inputs // size)}")
    return Integers(
        parts.name,
        (rows, inputs),
        bits,
        size or 0,
        words=lambda rows: as_words(rows_of(words, rows)),
        scales=lambda rows: rows_of(scales, rows).astype(mx.float32),
        zeros=lambda chosen: packed_zeros(parts, bits, (rows, groups), chosen),
        order=None if size else indices,
    )


def shape_of(parts: Parts) -> tuple[int, int]:
    """The shape of a packed matrix by its weight_shape. Raises BadCheckpoint."""
    if "weight_shape" not in parts.tensors:
        raise parts.wrong("weight_shape is missing")
    tensor = parts.tensors["weight_shape"]
    if tensor.shape != (2,) or tensor.dtype not in (mx.int32, mx.int64):
        raise parts.wrong(f"weight_shape is {parts.form('weight_shape')}, where two numbers belong")
    rows, inputs = (int(number) for number in np.array(tensor.read()))
    if not (1 <= rows <= 2**31 and 1 <= inputs <= 2**31):
        raise parts.wrong(f"weight_shape is {rows} x {inputs}")
    return rows, inputs


def group_size(parts: Parts, sizes: set[int], inputs: int, groups: int) -> int:
    """The columns of a group, where no weight_g_idx names the groups: one of the configuration's that makes so many."""
    if groups == 1:
        return inputs
    if size := next((size for size in sorted(sizes) if size > 0 and -(-inputs // size) == groups), None):
        return size
    raise parts.wrong(f"weight_scale has {groups} groups, which none of the configuration's sizes makes")


def packed_zeros(parts: Parts, bits: int, shape: tuple[int, int], rows: Rows) -> mx.array:
    """The zeros of some rows of the packed numbers, float32 [n, groups]; in the middle where none are stored."""
    middle, (outputs, groups) = 1 << (bits - 1), shape
    chosen = np.arange(outputs)[rows]
    if "weight_zero_point" not in parts.tensors:
        return mx.full((len(chosen), groups), float(middle))
    words = mx.contiguous(as_words(parts.matrix("weight_zero_point", WHOLE).read()).T)  # [groups, words]
    padded = mx.pad(words, [(0, 0), (0, -words.shape[1] % bits)])  # to rows of 32 numbers
    return mx.contiguous(numbers_of(padded, bits)[:, mx.array(chosen)].T)


def in_bytes(parts: Parts, sizes: set[int]) -> Integers:
    """A matrix of signed bytes, which are numbers + 128 - 128. Raises BadCheckpoint."""
    numbers = parts.matrix("weight", {mx.int8})
    rows, inputs = numbers.shape
    scales = parts.tensors.get("weight_scale")
    if scales is None or not mx.issubdtype(scales.dtype, mx.floating) or inputs % 32:
        raise parts.wrong(f"weight is {parts.form('weight')}, and its weight_scale is missing, or its rows are no "
                          "multiple of 32")  # fmt: skip
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    if scales.shape not in ((), (1,), (1, 1), (rows,), (rows, groups)):
        raise parts.wrong(f"weight_scale is {parts.form('weight_scale')}, and the matrix has {rows} rows")
    zeros = parts.tensors.get("weight_zero_point")
    if zeros is not None and zeros.shape != scales.shape:
        raise parts.wrong("weight_zero_point has another shape than weight_scale")

    def by_row(tensor: LazyTensor, chosen: Rows) -> mx.array:
        whole = tensor.read().astype(mx.float32).reshape(-1, groups)
        spread = mx.broadcast_to(whole, (rows, groups))
        return spread[chosen if isinstance(chosen, slice) else mx.array(chosen)]

    def shifted(chosen: Rows) -> mx.array:
        stored = by_row(zeros, chosen) if zeros is not None else mx.zeros_like(by_row(scales, chosen))
        return stored + 128

    return Integers(
        parts.name,
        (rows, inputs),
        8,
        group_size(parts, sizes, inputs, groups),
        words=lambda chosen: (rows_of(numbers, chosen).view(mx.uint8) ^ 128).view(mx.uint32),
        scales=lambda chosen: by_row(scales, chosen),
        zeros=shifted,
    )
