"""BitNet b1.58's matrices: -1, 0 and 1, times one number for each matrix.

Layout (transformers, integrations/bitnet.py, `AutoBitLinear` and `unpack_weights`), for a matrix [out, in]:

    offline  weight        uint8 [out / 4, in]   row r of it holds the rows r + k * out / 4, in its bits 2k and 2k + 1
             weight_scale  float, one number;    value = weight_scale * (number - 1)
    online   weight        float [out, in], as it was trained: value = s * round(weight / s), within -s and s, where s
                           is the mean magnitude (`WeightQuant`), in the type of the weight

The reference also rounds what goes into each product to 8 bits, with a scale for each position; here it stays floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.config.values import Values
from elm_mlx.convert.sources.quantized.bits import pack_words, rows_of
from elm_mlx.convert.sources.quantized.integers import Integers, Rows
from elm_mlx.convert.sources.quantized.parts import Parts, matrices
from elm_mlx.convert.tensor import LazyTensor

BITS, EACH = 2, 4  # bits of a number; rows of a byte
SCALE = "weight_scale"
LEAST = 1e-5  # that a mean magnitude may be

Codes = Callable[[Rows], mx.array]


def read(where: Path, settings: Values, tensors: Mapping[str, LazyTensor]) -> list[tuple[Parts, Integers]]:
    """BitNet's matrices among the tensors; `settings` is the object of the configuration.

    Raises Unsupported for another of its layers' forms, BadCheckpoint for parts that do not fit.
    """
    settings.require("linear_class", ["autobitlinear"])
    settings.require("quantization_mode", ["offline", "online"])
    settings.require("use_rms_norm", [False])
    if settings.get("linear_class") is None:  # then it is bitlinear, which divides by its scales
        raise settings.unsupported("linear_class", "bitlinear", ["autobitlinear"])
    if settings.get("quantization_mode", "offline") == "online":
        found = matrices(where, tensors, "weight", ("bias",))
        return [(parts, trained(parts)) for parts in found if ".layers." in parts.stem and is_matrix(parts)]
    return [(parts, packed(parts)) for parts in matrices(where, tensors, SCALE, ("weight", "bias"))]


def is_matrix(parts: Parts) -> bool:
    """Whether the weight is a matrix, not a norm's."""
    return len(parts.tensors["weight"].shape) == 2


def packed(parts: Parts) -> Integers:
    """A matrix whose numbers lie in bytes. Raises BadCheckpoint."""
    stored, scale = parts.matrix("weight", {mx.uint8}), parts.tensors[SCALE]
    if prod(scale.shape) != 1 or not mx.issubdtype(scale.dtype, mx.floating):
        raise parts.wrong(f"{SCALE} is {parts.form(SCALE)}, and has to be one number")

    def codes(rows: Rows) -> mx.array:
        wanted = np.arange(EACH * stored.shape[0])[rows]
        shifts = mx.array(BITS * (wanted // stored.shape[0]), dtype=mx.uint32)[:, None]
        return (rows_of(stored, wanted % stored.shape[0]).astype(mx.uint32) >> shifts) & 3

    return numbers(parts, (EACH * stored.shape[0], stored.shape[1]), codes, lambda: scale.read().reshape(1))


def trained(parts: Parts) -> Integers:
    """A matrix of floats that the reference rounds whenever it runs. Raises BadCheckpoint."""
    weight = parts.matrix("weight")

    @cache
    def inverse() -> mx.array:
        sums = [float(mx.abs(rows.astype(mx.float32)).sum()) for rows in weight.blocks()]
        return mx.array([1 / max(sum(sums) / prod(weight.shape), LEAST)], dtype=mx.float32)

    def codes(rows: Rows) -> mx.array:
        scaled = mx.round(rows_of(weight, rows).astype(mx.float32) * inverse())
        return (mx.clip(scaled, -1, 1) + 1).astype(mx.uint32)

    return numbers(parts, (weight.shape[0], weight.shape[1]), codes, lambda: (1 / inverse()).astype(weight.dtype))


def numbers(parts: Parts, shape: tuple[int, int], codes: Codes, scale: Callable[[], mx.array]) -> Integers:
    """The matrix of numbers 0 to 2 that `codes` reads, uint32 [n, in], with one `scale` [1]. Raises BadCheckpoint."""
    if shape[1] % 32:
        raise parts.wrong(f"weight has {shape[1]} columns, which groups of 32 do not divide")

    def repeated(read_one: Callable[[], mx.array]) -> Callable[[Rows], mx.array]:
        return lambda rows: mx.broadcast_to(read_one().astype(mx.float32), (len(np.arange(shape[0])[rows]), 1))

    words, scales, zeros = lambda rows: pack_words(codes(rows), BITS), repeated(scale), repeated(lambda: mx.ones(1))
    return Integers(parts.name, shape, BITS, shape[1], words=words, scales=scales, zeros=zeros)
