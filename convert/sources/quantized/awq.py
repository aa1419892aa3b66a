"""AWQ's matrices, as AutoAWQ writes them in its format "gemm".

Layout (AutoAWQ, awq/modules/linear/gemm.py, `WQLinear_GEMM.from_linear`; read by awq/utils/packing_utils.py,
`dequantize_gemm`), for a matrix [out, in] in 4 bits:

    qweight  int32 [in, out / 8]       eight outputs a word, in the order 0 2 4 6 1 3 5 7 from the lowest bits on
    qzeros   int32 [groups, out / 8]   the same, and the zero itself
    scales   float16 [groups, out]
    value    = scales * (number - zero)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from elm_mlx.config.values import MAX_WIDTH, Values
from elm_mlx.convert.sources.quantized.bits import as_words, columns_of, pack_words
from elm_mlx.convert.sources.quantized.integers import Integers, Rows
from elm_mlx.convert.sources.quantized.parts import WHOLE, Parts, matrices
from elm_mlx.convert.tensor import LazyTensor

SIGN, PARTS = "qweight", ("qzeros", "scales", "bias")
BITS, EACH = 4, 8  # bits of a number; numbers of a word
SHIFTS = [BITS * place for place in (0, 4, 1, 5, 2, 6, 3, 7)]  # where in a word the outputs 0 to 7 are
VERSIONS = ("gemm", "GEMM")


def read(where: Path, settings: Values, tensors: Mapping[str, LazyTensor]) -> list[tuple[Parts, Integers]]:
    """AWQ's matrices among the tensors; `settings` is the object of the configuration.

    Raises Unsupported for another of AWQ's layouts, BadCheckpoint for parts that do not fit.
    """
    for key in ("version", "format", "checkpoint_format"):
        settings.require(key, VERSIONS)
    settings.require("bits", [BITS])
    settings.require("w_bit", [BITS])
    settings.require("zero_point", [True])
    size = settings.integer("group_size", settings.integer("q_group_size", 128, MAX_WIDTH, -1), MAX_WIDTH, -1)
    return [(parts, matrix(size, parts)) for parts in matrices(where, tensors, SIGN, PARTS)]


def matrix(size: int, parts: Parts) -> Integers:
    """One matrix, in groups of `size` inputs, -1 for all. Raises BadCheckpoint."""
    words, zeros, scales = parts.matrix(SIGN, WHOLE), parts.matrix("qzeros", WHOLE), parts.matrix("scales")
    inputs, outputs = words.shape[0], words.shape[1] * EACH
    size = inputs if size == -1 else size
    if size < 1 or inputs % size or inputs % 32:
        raise parts.wrong(f"{SIGN} has {inputs} inputs, which groups of {size} do not divide")
    parts.expect("qzeros", (inputs // size, words.shape[1]))
    parts.expect("scales", (inputs // size, outputs))
    return Integers(
        parts.name,
        (outputs, inputs),
        BITS,
        size,
        words=lambda rows: pack_words(unpack(words, rows), BITS),
        scales=lambda rows: columns_of(scales, rows).astype(mx.float32),
        zeros=lambda rows: unpack(zeros, rows).astype(mx.float32),
    )


def unpack(words: LazyTensor, rows: Rows) -> mx.array:
    """The numbers of some outputs, uint32 [n, inputs or groups]: their words are read, and cut to size."""
    outputs = np.arange(words.shape[1] * EACH)[rows]
    there, index = np.unique(outputs // EACH, return_inverse=True)
    columns = slice(there[0], there[-1] + 1) if len(there) == there[-1] - there[0] + 1 else there
    each = as_words(columns_of(words, columns))[:, None] >> mx.array(SHIFTS, dtype=mx.uint32)[:, None]  # [words, 8, in]
    every = (each & 15).reshape(-1, each.shape[-1])
    chosen = index * EACH + outputs % EACH
    if np.array_equal(chosen, np.arange(len(every))):
        return every
    return every[mx.array(chosen)]
