"""Checkpoints as other libraries' quantizers write them: plain twins of their packers, and the formulas that their
files stand for, in NumPy.

Each packer goes number by number as the cited source does, and shares nothing with the readers of elm_mlx.convert.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helpers import checkpoints

LLAMA = checkpoints.LLAMA | {
    "hidden_size": 128, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256,
    "num_hidden_layers": 1, "torch_dtype": "float16",
}  # fmt: skip
OPENELM = checkpoints.OPENELM | {"model_dim": 128, "head_dim": 32, "ffn_dim_divisor": 32}
FLOATS = {np.dtype("f2"): "F16", np.dtype("f4"): "F32"}
BFLOAT16 = np.dtype("u2")  # NumPy has none: its bits
NAMES = FLOATS | {
    BFLOAT16: "BF16",
    np.dtype("i4"): "I32",
    np.dtype("i8"): "I64",
    np.dtype("i1"): "I8",
    np.dtype("u1"): "F8_E4M3",
}
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Numbers int [out, in] with scales [out, groups] and zeros int [out, groups]; `index` [in] names the group of each
    column."""

    numbers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    index: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """What it stands for, in float32: exact, as scales have 16 bits."""
        return self.scales.astype(np.float32)[:, self.index] * (self.numbers - self.zeros[:, self.index]).astype(
            np.float32
        )


def quantized(
    weight: np.ndarray, bits: int, group_size: int, *, symmetric: bool = True, index: np.ndarray | None = None
) -> Grid:
    """Rounds a matrix [out, in] to a grid; -1 is one group for all columns."""
    columns = weight.shape[1]
    size = columns if group_size == -1 else group_size
    index = np.arange(columns) // size if index is None else index
    most = 2**bits - 1
    lows, highs = (np.stack([f(weight[:, index == g]) for g in range(index.max() + 1)], 1)
                   for f in (lambda w: np.minimum(w.min(1), 0), lambda w: np.maximum(w.max(1), 0)))  # fmt: skip
    if symmetric:
        highs = np.maximum(-lows, highs)
        lows = -highs
    scales = np.maximum((highs - lows) / most, 1e-4).astype(np.float16)
    wide = scales.astype(np.float32)
    zeros = (
        np.full(scales.shape, 2 ** (bits - 1)) if symmetric else np.clip(np.round(-lows / wide), 0, most).astype(int)
    )
    numbers = np.clip(np.round(weight / wide[:, index]) + zeros[:, index], 0, most).astype(int)
    return Grid(numbers, scales, zeros, index)


def stream(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers [n, m] packed down their columns, lowest bits first, without gaps: int32 [n * bits / 32, m]."""
    words = np.zeros((len(numbers) * bits // 32, numbers.shape[1]), dtype=np.uint32)
    for row, line in enumerate(numbers.astype(np.uint64)):
        word, place = divmod(row * bits, 32)
        words[word] |= (line << np.uint64(place)).astype(np.uint32)
        if place + bits > 32:
            words[word + 1] |= (line >> np.uint64(32 - place)).astype(np.uint32)
    return words.view(np.int32)


def gptq(grid: Grid, bits: int, *, v2: bool = False, g_idx: bool = True) -> Tensors:
    """A matrix as AutoGPTQ packs it (auto_gptq/nn_modules/qlinear/qlinear_cuda.py, `QuantLinear.pack`), or with v2 as
    GPTQModel does in the format gptq_v2. From there to v1, GPTQModel subtracts 1 from the words as whole numbers."""
    zeros = stream(grid.zeros, bits)  # [out * bits / 32, groups]
    if not v2 and bits != 3:
        zeros = zeros - np.uint32(sum(1 << at for at in range(0, 32, bits))).view(np.int32)
    if not v2 and bits == 3:
        zeros = stream(grid.zeros - 1, bits)
    packed = {"qweight": stream(grid.numbers.T, bits), "qzeros": np.ascontiguousarray(zeros.T),
              "scales": np.ascontiguousarray(grid.scales.T)}  # fmt: skip
    return packed | ({"g_idx": grid.index.astype(np.int32)} if g_idx else {})


def awq(grid: Grid) -> Tensors:
    """A matrix as AutoAWQ packs it in the version gemm (awq/modules/linear/gemm.py, `WQLinear_GEMM.from_linear`)."""

    def interleaved(numbers: np.ndarray) -> np.ndarray:
        words = np.zeros((len(numbers), numbers.shape[1] // 8), dtype=np.uint32)
        for column in range(words.shape[1]):
            for place, output in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                words[:, column] |= numbers[:, column * 8 + output].astype(np.uint32) << np.uint32(4 * place)
        return words.view(np.int32)

    return {"qweight": interleaved(grid.numbers.T), "qzeros": interleaved(grid.zeros.T),
            "scales": np.ascontiguousarray(grid.scales.T)}  # fmt: skip


def pack_quantized(grid: Grid, bits: int, *, symmetric: bool = True) -> Tensors:
    """A matrix as compressed-tensors packs it (compressors/pack_quantized, `pack_to_int32`)."""
    words = stream(grid.numbers.T, bits).T
    packed = {"weight_packed": np.ascontiguousarray(words), "weight_scale": grid.scales,
              "weight_shape": np.array(grid.numbers.shape, dtype=np.int64)}  # fmt: skip
    return packed if symmetric else packed | {"weight_zero_point": stream(grid.zeros, bits)}


def float8_table() -> np.ndarray:
    """The 256 numbers of float8_e4m3fn: sign, 4 bits of exponent with bias 7, 3 of fraction, no infinity."""
    bits = np.arange(256)
    sign, exponent, fraction = np.where(bits >> 7, -1.0, 1.0), (bits >> 3) & 15, bits & 7
    normal = (1 + fraction / 8) * 2.0 ** (exponent - 7)
    table = sign * np.where(exponent == 0, fraction / 8 * 2.0**-6, normal)
    table[(bits & 127) == 127] = np.nan
    return table.astype(np.float32)


TABLE = float8_table()


def as_float8(weight: np.ndarray) -> np.ndarray:
    """The bytes of the nearest numbers of float8_e4m3fn."""
    order = np.argsort(TABLE[:127])
    found = np.searchsorted(TABLE[order], np.abs(weight))
    found = np.clip(found, 1, 126)
    nearer = np.abs(weight) - TABLE[order][found - 1] < TABLE[order][found] - np.abs(weight)
    return (order[found - nearer] | (np.signbit(weight).astype(int) << 7)).astype(np.uint8)


def float8(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The bytes of a matrix [out, in] over its scales, which broadcast to it."""
    return as_float8(weight / scales)


def write(
    folder: Path,
    raw: dict[str, Any],
    settings: dict[str, Any],
    pack: Callable[[str, np.ndarray], tuple[Tensors, np.ndarray] | None],
    *,
    shards: int = 1,
    extra: Tensors | None = None,
) -> Tensors:
    """Writes a checkpoint with the quantization `settings`; of its layers' matrices `pack` gives the parts and the
    values, or None for a plain one, which is in float16. `extra` tensors are added. Returns all values by name, in
    float32."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": settings}), "utf-8")
    checkpoints.add_tokenizer(folder)
    tensors: Tensors = dict(extra or {})
    values: Tensors = {}
    for name, weight in checkpoints.weights(raw).items():
        packed = pack(name, weight) if weight.ndim == 2 and ("layers" in name) else None
        if packed is None:
            tensors[name] = weight.astype(np.float16)
            values[name] = tensors[name].astype(np.float32)
        else:
            stem = name.removesuffix("weight")
            tensors |= {stem + part: array for part, array in packed[0].items()}
            values[name] = packed[1]
    names = list(tensors)
    files = (
        ["model.safetensors"]
        if shards == 1
        else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    )
    for number, file in enumerate(files):
        save(folder / file, {name: tensors[name] for name in names[number::shards]})
    if shards > 1:
        places = {name: files[i % shards] for i, name in enumerate(names)}
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return values


def save(path: Path, tensors: Tensors) -> None:
    """Writes a safetensors file; bytes are float8_e4m3fn, and where they are scales E8M0."""
    header, data = {}, b""
    for name, array in tensors.items():
        span = [len(data), len(data) + array.nbytes]
        kind = "F8_E8M0" if name.endswith("scale_inv") and array.dtype == np.uint8 else NAMES[array.dtype]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": span}
        data += np.ascontiguousarray(array).tobytes()
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def write_plain(folder: Path, raw: dict[str, Any], values: Tensors) -> Path:
    """Writes the values as a plain checkpoint in float32."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw | {"torch_dtype": "float32"}), encoding="utf-8")
    checkpoints.add_tokenizer(folder)
    save(folder / "model.safetensors", values)
    return folder


Pack = Callable[[str, np.ndarray], tuple[Tensors, np.ndarray] | None]


@dataclass(frozen=True)
class Form:
    """A library's form: what its config.json says, how it packs a matrix, how far the kept matrix may be from it
    (relative, root mean square), and the bits and the group size that it is kept in."""

    settings: dict[str, Any]
    pack: Pack
    bound: float
    kept: tuple[int, int]


def gptq_form(bits: int, group_size: int, *, symmetric: bool = True, v2: bool = False, g_idx: bool = True) -> Form:
    """GPTQ, in the format gptq or gptq_v2."""

    def pack(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        grid = quantized(weight, bits, group_size, symmetric=symmetric)
        return gptq(grid, bits, v2=v2, g_idx=g_idx), grid.values

    settings = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": False, "sym": symmetric,
                "checkpoint_format": "gptq_v2" if v2 else "gptq"}  # fmt: skip
    return Form(settings, pack, 0.0 if symmetric else 1e-3, (bits, 128 if group_size == -1 else group_size))


def awq_form(group_size: int) -> Form:
    """AWQ, version gemm."""

    def pack(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        grid = quantized(weight, 4, group_size, symmetric=False)
        return awq(grid), grid.values

    settings = {"quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm", "zero_point": True}
    return Form(settings, pack, 1e-3, (4, group_size))


def compressed_settings(form: str, **weights: Any) -> dict[str, Any]:
    """The settings that compressed-tensors writes."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False, **weights}, "format": form}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed"}  # fmt: skip


def packed_form(bits: int, group_size: int, *, symmetric: bool = True) -> Form:
    """compressed-tensors, pack-quantized."""

    def pack(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        grid = quantized(weight, bits, group_size, symmetric=symmetric)
        return pack_quantized(grid, bits, symmetric=symmetric), grid.values

    how = {"strategy": "group", "group_size": group_size} if group_size > 0 else {"strategy": "channel"}
    settings = compressed_settings("pack-quantized", num_bits=bits, type="int", **how | {"symmetric": symmetric})
    return Form(settings, pack, 0.0 if symmetric else 1e-3, (bits, 128 if group_size == -1 else group_size))


def int8_form() -> Form:
    """compressed-tensors, int-quantized."""

    def pack(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float16)
        numbers = np.clip(np.round(weight / scales.astype(np.float32)), -128, 127).astype(np.int8)
        return {"weight": numbers, "weight_scale": scales}, numbers * scales.astype(np.float32)

    return Form(compressed_settings("int-quantized", num_bits=8, type="int", strategy="channel"), pack, 0.0, (8, 128))


def float8_form(settings: dict[str, Any], kind: str, part: str = "weight_scale") -> Form:
    """8-bit floats with scales by "row", by "tensor", by "block" of 64 x 32, by row in "powers" of two, or by 32
    columns in "bytes" that are exponents (MXFP8)."""

    def pack(name: str, weight: np.ndarray) -> tuple[Tensors, np.ndarray]:
        size, (rows, columns) = np.abs(weight), weight.shape
        high = 1 if kind == "bytes" else 64
        blocks = size.reshape(rows // high, high, columns // 32, 32).max((1, 3))
        peaks = {"tensor": np.array([size.max()]), "block": blocks, "bytes": blocks}
        scales = peaks.get(kind, size.max(1, keepdims=True)) / 448
        scales = (2.0 ** np.ceil(np.log2(scales)) if exact else scales).astype(np.float32)
        spread = scales.repeat(high, 0).repeat(32, 1) if kind in ("block", "bytes") else scales
        numbers = float8(weight, spread)
        stored = (np.log2(scales) + 127).astype(np.uint8) if kind == "bytes" else scales
        return {"weight": numbers, part: stored}, TABLE[numbers] * spread

    exact = kind in ("powers", "bytes")
    bounds = {"row": 3e-7, "tensor": 3e-7, "block": 6e-3}
    return Form(settings, pack, bounds.get(kind, 0.0), (8, 64 if kind == "block" else 32))


FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
FLOAT_QUANTIZED = compressed_settings("float-quantized", num_bits=8, type="float", strategy="channel")
BY_TENSOR = compressed_settings("float-quantized", num_bits=8, type="float", strategy="tensor")
BLOCKS = {"quant_method": "fp8", "weight_block_size": [64, 32], "fmt": "e4m3", "activation_scheme": "dynamic"}
FORMS = {
    "gptq-4": gptq_form(4, 128),
    "gptq-4-asymmetric": gptq_form(4, 64, symmetric=False),
    "gptq-4-no-g_idx": gptq_form(4, 32, g_idx=False),
    "gptq-8": gptq_form(8, 32),
    "gptq-8-whole-rows": gptq_form(8, -1, symmetric=False),
    "gptq-2": gptq_form(2, 32),
    "gptq-3": gptq_form(3, 64, symmetric=False),
    "gptq_v2-4": gptq_form(4, 128, symmetric=False, v2=True),
    "gptq_v2-3": gptq_form(3, 64, v2=True),
    "awq": awq_form(128),
    "awq-32": awq_form(32),
    "packed-4": packed_form(4, 128),
    "packed-4-asymmetric": packed_form(4, 32, symmetric=False),
    "packed-5": packed_form(5, -1),
    "int8": int8_form(),
    "fbgemm": float8_form(FBGEMM, "row"),
    "fbgemm-powers": float8_form(FBGEMM, "powers"),
    "float-quantized": float8_form(FLOAT_QUANTIZED, "row"),
    "float-quantized-tensor": float8_form(BY_TENSOR, "tensor"),
    "fp8-blocks": float8_form(BLOCKS, "block", "weight_scale_inv"),
    "mxfp8": float8_form(BLOCKS | {"weight_block_size": [1, 32]}, "bytes", "weight_scale_inv"),
}
