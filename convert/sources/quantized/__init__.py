"""Checkpoints that another library has quantized: read as plain floats, and kept in few bits where MLX has the form.

What quantizes them stands in config.json as `quantization_config`, or in the older files beside it that AutoGPTQ
(quantize_config.json) and AutoAWQ (quant_config.json) wrote alone. Which matrices are quantized shows in their tensors
alone: those of `modules_to_not_convert` and the like are plain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.config.foreign import CONVERTED, KEY, METHOD, convert_refusal, method_of
from elm_mlx.config.values import CONFIG, Values
from elm_mlx.convert.sources.quantized import awq, bitnet, compressed, fp8, gptq
from elm_mlx.convert.sources.quantized.act_order import sorted_columns
from elm_mlx.convert.sources.quantized.floats8 import Floats8
from elm_mlx.convert.sources.quantized.integers import Integers
from elm_mlx.convert.sources.quantized.parts import Parts
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import optional_json
from elm_mlx.store.weight_files import some

OLDER = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}  # files of settings, by the libraries' first habits
Found = Sequence[tuple[Parts, Integers] | tuple[Parts, Floats8]]
Reader = Callable[[Path, Values, Mapping[str, LazyTensor]], Found]
READERS: dict[str, Reader] = {
    "gptq": gptq.read,
    "awq": awq.read,
    "fbgemm_fp8": fp8.read,
    "fp8": fp8.read,
    "compressed-tensors": compressed.read,
    "bitnet": bitnet.read,
}


@dataclass(frozen=True)
class Plain:
    """What another library's checkpoint is to a conversion: `tensors`, all of them plain, and packed where MLX can keep
    them in few bits, with floats in `kept_dtype`; the `layout` for people; and the tensors `dropped`, which say how
    activations are rounded."""

    tensors: dict[str, LazyTensor]
    kept_dtype: str
    layout: str
    dropped: list[str]


def settings_of(directory: Path, raw: Mapping[str, Any], tensors: Mapping[str, LazyTensor]) -> tuple[Values, list[str]]:
    """(what says how another library has quantized these tensors, the files that say it); empty where none has. `raw`
    is the object of config.json. Raises BadCheckpoint."""
    own = Values(raw, CONFIG)
    if own.section("quantization").raw:
        return Values({}), []
    there = own.section(KEY)
    if method_of(there) is not None:
        return there, []
    if not there.raw and any(name.endswith(".qweight") for name in tensors):
        for file, method in OLDER.items():
            if found := optional_json(directory / file):
                return Values({METHOD: method} | found, file), [file]
    return Values({}), []


def read_quantized(where: Path, settings: Values, tensors: Mapping[str, LazyTensor]) -> Plain:
    """The plain tensors of a checkpoint that another library has quantized as its `settings` say.

    Raises Unsupported for a library or a form that is not read, by its name; BadCheckpoint for parts that do not fit.
    """
    method = str(method_of(settings))
    if method not in READERS:
        raise convert_refusal(settings)
    found = READERS[method](where, settings, tensors)
    if not found:
        raise BadCheckpoint(f"{settings.where} says that {CONVERTED[method]} has quantized the weights, and {where} "
                            f"holds no matrix that is stored so. Take both from the same repository; if the "
                            f"weights are plain, remove {KEY} from it.")  # fmt: skip
    rest = dict(tensors)
    for parts, _ in found:
        parts.refuse_bias()
        for part in parts.tensors:
            rest.pop(f"{parts.stem}.{part}", None)
    dropped = [name for name in rest if name.rpartition(".")[2] in fp8.ACTIVATIONS]
    plain = {name: tensor for name, tensor in rest.items() if name not in dropped}
    names = Counter([*plain, *(parts.name for parts, _ in found)])
    if twice := [name for name, count in names.items() if count > 1]:
        raise BadCheckpoint(f"{where} holds {some(twice)} twice, in two forms. Fetch it again.")
    matrices, plain = sorted_columns({parts.name: matrix for parts, matrix in found}, plain)
    kept = kept_dtype(settings, found)
    return Plain(
        plain | {name: matrix.tensor(getattr(mx, kept)) for name, matrix in matrices.items()},
        kept,
        layout_name(method, matrices),
        dropped,
    )


def kept_dtype(settings: Values, found: Found) -> str:
    """The type of floats beside what is kept in few bits: bfloat16 where the source's numbers are floats, or its scales
    are all in it and symmetric, so that MLX's biases are exact in it, too; else float16, which rounds biases less."""
    if any(isinstance(matrix, Floats8) for _, matrix in found):
        return "bfloat16"
    scales = [part.dtype for parts, _ in found for name, part in parts.tensors.items() if "scale" in name]
    zeros = any("weight_zero_point" in parts.tensors for parts, _ in found) or method_of(settings) == "awq"
    symmetric = settings.get("sym", True) is not False and not zeros
    return "bfloat16" if symmetric and all(dtype == mx.bfloat16 for dtype in scales) else "float16"


def layout_name(method: str, matrices: Mapping[str, Integers | Floats8]) -> str:
    """What to call the layout of a checkpoint: GPTQ, 4-bit."""
    bits = sorted({matrix.bits if isinstance(matrix, Integers) else 8 for matrix in matrices.values()})
    return f"{CONVERTED[method]}, {'/'.join(map(str, bits))}-bit"
