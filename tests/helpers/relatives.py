"""Tiny seeded checkpoints of Llama's relatives, in the layouts that their publishers use.

Twins are plain Llamas with each layer's weights written out, which compute the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from helpers import checkpoints, torch_craft
from helpers.checkpoints import LLAMA

# facebook/MobileLLM-125M's keys: the output is the embedding though tie_word_embeddings is false.
MOBILELLM: dict[str, Any] = LLAMA | {
    "model_type": "mobilellm",
    "architectures": ["MobileLLMForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_mobilellm.MobileLLMConfig",
                 "AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM"},
    "rope_theta": 10000.0,
    "share_embedding": True,
    "layer_sharing": False,
    "torch_dtype": "float16",
}  # fmt: skip
MOBILELLM_LS = MOBILELLM | {"layer_sharing": True}
MOBILLAMA: dict[str, Any] = LLAMA | {  # what elm-mlx writes; the publisher's own says llama
    "model_type": "mobillama",
    "rope_theta": 10000.0,
}
BITNET: dict[str, Any] = LLAMA | {
    "model_type": "bitnet",
    "architectures": ["BitNetForCausalLM"],
    "hidden_act": "relu2",
    "hidden_size": 128,
    "head_dim": 16,
    "num_attention_heads": 8,
    "intermediate_size": 192,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
BITNET_QUANTIZATION = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
LAYERS = LLAMA["num_hidden_layers"]


def plain(raw: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the twin."""
    own = {"share_embedding", "layer_sharing", "auto_map"}
    layers = raw["num_hidden_layers"] * (2 if raw.get("layer_sharing") else 1)
    tied = raw.get("share_embedding", False) or raw["tie_word_embeddings"]
    kept = {key: value for key, value in raw.items() if key not in own}
    return kept | {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": tied,
                   "architectures": ["LlamaForCausalLM"]}  # fmt: skip


def written_out(raw: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of the twin: each block twice, or the feed-forward under each layer's name."""
    twin: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name.startswith("model.mlp."):
            twin |= {f"model.layers.{i}.{name.removeprefix('model.')}": array for i in range(LAYERS)}
        elif raw.get("layer_sharing") and (found := re.match(r"model\.layers\.(\d+)\.(.*)", name)):
            twin |= {f"model.layers.{2 * int(found[1]) + i}.{found[2]}": array for i in (0, 1)}
        else:
            twin[name] = array
    return twin


def write_plain(folder: Path, raw: dict[str, Any], dtype: mx.Dtype = mx.float32) -> Path:
    """Writes the twin of a relative as a Hugging Face directory."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(plain(raw)), encoding="utf-8")
    arrays = written_out(raw, checkpoints.weights(raw))
    checkpoints.save(folder, {name: mx.array(array).astype(dtype) for name, array in arrays.items()})
    checkpoints.add_tokenizer(folder)
    return folder


def write_bin(folder: Path, raw: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """Writes config.json and pytorch_model.bin, float16, as torch.save does: arrays that are one object are one
    storage under several names."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    keys: dict[int, str] = {}
    pairs, members = [], []
    for name, array in arrays.items():
        half = array.astype("<f2")
        if id(array) not in keys:
            keys[id(array)] = str(len(keys))
            members.append(torch_craft.Member(f"toy/data/{keys[id(array)]}", half.tobytes()))
        strides = [stride // 2 for stride in half.strides]
        storage = torch_craft.storage("torch HalfStorage", keys[id(array)], array.size)
        pairs.append((name, torch_craft.tensor(array.shape, strides, 0, storage)))
    pickle = torch_craft.Member("toy/data.pkl", torch_craft.program(torch_craft.dictionary(*pairs)))
    (folder / "pytorch_model.bin").write_bytes(torch_craft.archive([pickle, *members]))
    checkpoints.add_tokenizer(folder)
    return folder


def write_mobillama(folder: Path, kind: str) -> Path:
    """MobiLlama as its publisher's code saves it: "bin" (one storage), "copies" (in safetensors), "once" (under the
    name of any layer, the aliases left out)."""
    twin, raw = written_out(MOBILLAMA, checkpoints.weights(MOBILLAMA)), plain(MOBILLAMA)
    if kind == "bin":
        return write_bin(folder, raw, twin)
    if kind == "once":
        twin = {n: a for n, a in twin.items() if ".mlp." not in n or ".layers.1." in n}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.save(folder, {name: mx.array(array) for name, array in twin.items()})
    checkpoints.add_tokenizer(folder)
    return folder


def ternary(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A matrix of -1, 0 and 1."""
    return np.random.RandomState(seed).randint(-1, 2, shape).astype(np.int8)


def packed_rows(matrix: np.ndarray) -> np.ndarray:
    """-1, 0 and 1 [out, in] as BitNet's files have them, uint8 [out / 4, in]: byte r holds rows r + k out / 4 in its
    bits 2k."""
    parts = (matrix + 1).astype(np.uint8).reshape(4, -1, matrix.shape[1])
    return parts[0] | parts[1] << 2 | parts[2] << 4 | parts[3] << 6


def bitnet_arrays() -> tuple[dict[str, mx.array], dict[str, np.ndarray]]:
    """(the tensors of a BitNet's file, the plain float32 weights that they stand for)."""
    stored: dict[str, mx.array] = {}
    values: dict[str, np.ndarray] = {}
    for seed, (name, array) in enumerate(checkpoints.weights(BITNET).items()):
        if name.endswith("_proj.weight"):
            scale = mx.array([0.05 + 0.01 * seed]).astype(mx.bfloat16)
            matrix = ternary(array.shape, seed)
            stored |= {name: mx.array(packed_rows(matrix)), f"{name}_scale": scale}
            values[name] = matrix * np.array(scale.astype(mx.float32))
        else:
            stored[name] = mx.array(array).astype(mx.bfloat16)
            values[name] = np.array(stored[name].astype(mx.float32))
    return stored, values


def write_bitnet(folder: Path, dtype: mx.Dtype = mx.bfloat16) -> Path:
    """BitNet b1.58 in microsoft/bitnet-b1.58-2B-4T's layout, its floats in a type."""
    folder.mkdir(parents=True)
    kind = str(dtype).removeprefix("mlx.core.")
    raw = BITNET | {"quantization_config": BITNET_QUANTIZATION, "torch_dtype": kind}
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    arrays = bitnet_arrays()[0].items()
    checkpoints.save(folder, {n: a if a.dtype == mx.uint8 else a.astype(dtype) for n, a in arrays})
    checkpoints.add_tokenizer(folder)
    return folder
