"""FP8 checkpoints of fbgemm's layout (Llama 3.1 405B), of AutoFP8's and of DeepSeek's.

Layouts, for a matrix [out, in] that is stored as float8_e4m3fn under its usual name:

    fbgemm_fp8  weight_scale float [out, 1]; value = weight * weight_scale
                (transformers, integrations/fbgemm_fp8.py, `FbgemmFp8Linear`)
    fp8         weight_scale float, one number; value = weight * weight_scale
                (vLLM, model_executor/layers/quantization/fp8.py: what AutoFP8 writes)
    fp8 with weight_block_size [rows, columns]
                weight_scale_inv float [out / rows, in / columns]; value = weight * weight_scale_inv, despite its name
                (transformers, integrations/finegrained_fp8.py, `Fp8Dequantize`); scales of bytes are exponents

Matrices that are not stored so are plain. The scales of activations (input_scale, input_scale_ub, those of a key/value
cache) are left out: there activations are rounded to 8 bits while the model runs, here they stay floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from elm_mlx.config.values import Values
from elm_mlx.convert.sources.quantized.floats8 import Floats8
from elm_mlx.convert.sources.quantized.parts import Parts, matrices
from elm_mlx.convert.sources.safetensors_file import Float8Tensor
from elm_mlx.convert.tensor import LazyTensor

SCALES = ("weight_scale", "weight_scale_inv")
ACTIVATIONS = ("input_scale", "input_scale_ub", "output_scale", "k_scale", "v_scale", "q_scale", "activation_scale")


def read(where: Path, settings: Values, tensors: Mapping[str, LazyTensor]) -> list[tuple[Parts, Floats8]]:
    """The matrices of 8-bit floats among the tensors; `settings` is the object of the configuration.

    Raises Unsupported for another kind of 8-bit floats, BadCheckpoint for parts that do not fit.
    """
    settings.require("fmt", ["e4m3", "float8_e4m3fn"])
    blocks = block_size(settings, settings.get("weight_block_size"))
    found = matrices(where, tensors, "weight", (*SCALES, "bias"))
    return [(parts, matrix(parts, blocks)) for parts in found if is_float8(parts.tensors["weight"])]


def is_float8(tensor: LazyTensor) -> bool:
    """Whether a tensor is stored as 8-bit floats."""
    return isinstance(tensor.read, Float8Tensor)


def block_size(settings: Values, raw: Any) -> tuple[int, int] | None:
    """The rows and columns that share a scale, by the configuration; None where it has no blocks."""
    if raw is None:
        return None
    if not isinstance(raw, list) or len(raw) != 2 or any(type(size) is not int or size < 1 for size in raw):
        raise settings.wrong(f"the size of a block is {raw!r:.40}, where two whole numbers belong.")
    return raw[0], raw[1]


def matrix(parts: Parts, blocks: tuple[int, int] | None) -> Floats8:
    """One matrix: the shape of its scales says what they are for. Raises BadCheckpoint."""
    numbers = parts.matrix("weight")
    name = next((name for name in SCALES if name in parts.tensors), SCALES[0])
    if name not in parts.tensors:
        raise parts.wrong("weight has 8-bit floats and no weight_scale beside it")
    scales, (rows, columns) = parts.tensors[name], numbers.shape
    if not (mx.issubdtype(scales.dtype, mx.floating) or scales.dtype == mx.uint8):
        raise parts.wrong(f"{name} is {parts.form(name)}, and has to be floats, or bytes that are exponents")
    if prod(scales.shape) == 1:
        block, shape = (rows, columns), (1, 1)
    elif scales.shape in ((rows,), (rows, 1)):
        block, shape = (1, columns), (rows, 1)
    elif blocks and scales.shape == (-(-rows // blocks[0]), -(-columns // blocks[1])):
        block, shape = blocks, scales.shape
    else:
        raise parts.wrong(f"{name} is {parts.form(name)}, which is neither one scale, nor one for each of {rows} rows"
                          + (f", nor one for each block of {blocks[0]} x {blocks[1]}" if blocks else ""))  # fmt: skip
    return Floats8(parts.name, numbers, floats_of(scales.read()).reshape(shape), block)


def floats_of(scales: mx.array) -> np.ndarray:
    """The scales in float32. Bytes are E8M0: a byte is an exponent of 2, plus 127, and 255 is NaN."""
    stored = np.array(scales.astype(mx.float32))
    if scales.dtype != mx.uint8:
        return stored
    return np.where(stored == 255, np.nan, np.exp2(stored - 127)).astype(np.float32)
