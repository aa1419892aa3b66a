"""Tiny seeded checkpoints in the real layouts.

Weights have a standard deviation of 0.2 and norms are not 1: with the usual initialisation even a wrong RoPE keeps
every argmax. Embeddings are ten times smaller, as in real models, so that a norm's epsilon counts. Layers differ in
size and there are three query groups, so that no axis can be taken for another.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from helpers import torch_craft

from elm_mlx.config import config_from_dict

TOKENIZER = Path(__file__).parent / "tokenizer"  # a SentencePiece BPE trained on a page of text, with byte fallback
VOCAB = 512  # the tokenizer's entries
# Configurations, parameter counts and widths of the published models.
PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))

OPENELM: dict[str, Any] = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM"},
    "activation_fn_name": "swish",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ffn_dim_divisor": 16,
    "ffn_multipliers": [0.5, 3.0],
    "ffn_with_glu": True,
    "head_dim": 16,
    "max_context_length": 512,
    "model_dim": 64,
    "normalization_layer_name": "rms_norm",
    "normalize_qk_projections": True,
    "num_gqa_groups": 3,
    "num_transformer_layers": 4,
    "qkv_multipliers": [0.75, 1.5],
    "rope_freq_constant": 10000,
    "rope_max_length": 1024,
    "share_input_output_layers": True,
    "torch_dtype": "float32",
    "vocab_size": VOCAB,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 24,  # not hidden_size / num_attention_heads
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "vocab_size": VOCAB,
}


def llama3_scaling(factor: float) -> dict[str, Any]:
    """The llama3 rule with a small original context, so that short tests go beyond it."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }


def transformers5(raw: dict[str, Any]) -> dict[str, Any]:
    """A Llama's configuration in the spelling of transformers 5."""
    kept = {key: value for key, value in raw.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")}
    rope = {"rope_type": "default"} | (raw["rope_scaling"] or {}) | {"rope_theta": raw["rope_theta"]}
    return kept | {"rope_parameters": rope, "dtype": raw["torch_dtype"]}


# A shape that Meta's params.json can describe: heads dim / n_heads wide, an FFN by Meta's formula; for up to 8 shards.
META_PARAMS: dict[str, Any] = {"dim": 128, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "vocab_size": VOCAB,
                               "ffn_dim_multiplier": 1.1, "multiple_of": 32, "norm_eps": 1e-5,
                               "rope_theta": 500000.0}  # fmt: skip
META = LLAMA | {"hidden_size": 128, "head_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 8,
                "num_key_value_heads": 2, "intermediate_size": 384}  # fmt: skip


CONFIGS: dict[str, dict[str, Any]] = {
    "openelm": OPENELM,
    "openelm-untied": OPENELM | {"share_input_output_layers": False, "normalize_qk_projections": False},
    "llama-3": LLAMA,
    "llama-3.1": LLAMA | {"rope_scaling": llama3_scaling(8.0)},
    "llama-3.2": LLAMA | {"rope_scaling": llama3_scaling(32.0), "tie_word_embeddings": True},
    "llama-3-v5": transformers5(LLAMA),
    "llama-3.2-v5": transformers5(LLAMA | {"rope_scaling": llama3_scaling(32.0), "tie_word_embeddings": True}),
}

# Both architectures, tied and not, RoPE plain and scaled: enough where the spelling of a configuration does not matter.
FAMILIES = ("openelm", "llama-3.1")


def weights(raw: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a configuration in float32; RandomState's stream is frozen, so goldens hold forever."""
    return {name: tensor.copy() for name, tensor in seeded(json.dumps(raw, sort_keys=True), seed).items()}


@cache
def seeded(raw: str, seed: int) -> dict[str, np.ndarray]:
    """The tensors of a configuration that is given as JSON, drawn once a session: nobody may write to them."""
    random = np.random.RandomState(seed)
    shapes = config_from_dict(json.loads(raw)).weight_shapes()
    scales = {name: 0.02 if "embed" in name else 0.2 for name in shapes}
    return {n: (random.standard_normal(s) * scales[n] + (len(s) == 1)).astype(np.float32) for n, s in shapes.items()}


def prompt(length: int = 72, seed: int = 1) -> list[int]:
    """BOS and random ordinary ids."""
    return [1, *np.random.RandomState(seed).randint(3, VOCAB, length - 1).tolist()]


def add_tokenizer(folder: Path) -> None:
    """Copies the tests' own small tokenizer to a folder."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


def write(
    folder: Path,
    raw: dict[str, Any],
    *,
    dtype: mx.Dtype = mx.float32,
    shards: int = 1,
    tokenizer: bool = True,
    seed: int = 0,
) -> Path:
    """Writes a Hugging Face directory: config.json, safetensors (with an index when sharded) and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    arrays = {name: mx.array(value).astype(dtype) for name, value in weights(raw, seed).items()}
    save(folder, arrays, shards)
    if tokenizer:
        add_tokenizer(folder)
    return folder


def save(folder: Path, arrays: dict[str, mx.array], shards: int = 1) -> None:
    """Writes weights as one file, or dealt round-robin to `shards` files with an index."""
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "pt"})
        return
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    places = {name: files[i % shards] for i, name in enumerate(arrays)}
    for file in files:
        part = {name: array for name, array in arrays.items() if places[name] == file}
        mx.save_safetensors(str(folder / file), part, {"format": "pt"})
    index = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def save_torch(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Writes a state dict of float32 arrays as torch.save writes it, but without torch."""
    pairs, members = [], []
    for key, (name, array) in enumerate(arrays.items()):
        strides = [stride // 4 for stride in np.array(array, order="C").strides]
        storage = torch_craft.storage("torch FloatStorage", str(key), array.size)
        pairs.append((name, torch_craft.tensor(array.shape, strides, 0, storage)))
        members.append(torch_craft.Member(f"toy/data/{key}", array.astype("<f4").tobytes()))
    pickle = torch_craft.Member("toy/data.pkl", torch_craft.program(torch_craft.dictionary(*pairs)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(torch_craft.archive([pickle, *members]))
    return path


def corenet(arrays: dict[str, np.ndarray], padding: int = 128) -> dict[str, np.ndarray]:
    """OpenELM's tensors as CoreNet saves them: flat names, and an embedding with rows after the vocabulary."""
    flat = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    table = flat["token_embeddings.weight"]
    rows = np.random.RandomState(9).standard_normal((padding, table.shape[1])).astype(np.float32)
    return flat | {"token_embeddings.weight": np.concatenate([table, rows])}


META_NAMES = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output", "model.layers": "layers",
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attention_norm",
}  # fmt: skip


def meta(arrays: dict[str, np.ndarray], raw: dict[str, Any]) -> dict[str, np.ndarray]:
    """Llama's tensors with Meta's names and Meta's order of rows: row j of a head's half h becomes row 2 j + h."""
    half = raw["head_dim"] // 2
    order = [h * half + j for j in range(half) for h in (0, 1)]
    renamed = {}
    for name, array in arrays.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = array.reshape(-1, 2 * half, array.shape[1])[:, order].reshape(array.shape)
        for theirs, metas in META_NAMES.items():
            name = name.replace(theirs, metas)
        renamed[name] = array
    return renamed


def dealt(arrays: dict[str, np.ndarray], shards: int, head_dim: int, copies: int = 1) -> list[dict[str, np.ndarray]]:
    """Meta's tensors as its shards hold them, each key/value head `copies` times."""

    def pieces(name: str, array: np.ndarray) -> list[np.ndarray]:
        kind = name.split(".")[-2]
        if kind in ("wk", "wv"):
            array = array.reshape(-1, head_dim, array.shape[1]).repeat(copies, 0).reshape(-1, array.shape[1])
        if array.ndim == 1:
            return [array] * shards
        return np.split(array, shards, axis=1 if kind in ("wo", "w2") else 0)

    cut = {name: pieces(name, array) for name, array in arrays.items()}
    return [{name: parts[rank] for name, parts in cut.items()} for rank in range(shards)]


def write_meta(
    folder: Path, params: dict[str, Any], shards: list[dict[str, np.ndarray]], *, tokenizer: bool = True
) -> Path:
    """Writes Meta's directory: params.json, a file for each shard, and a tokenizer."""
    for rank, shard in enumerate(shards):
        save_torch(folder / f"consolidated.{rank:02d}.pth", shard)
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    if tokenizer:
        add_tokenizer(folder)
    return folder
