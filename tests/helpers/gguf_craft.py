"""GGUF files as llama.cpp's converter writes them, made with the gguf package, and what its own dequantizer reads.

What the converter does to names and rows is written here a second time: convert_hf_to_gguf.py, LlamaModel and
OpenELMModel of ggml-org/llama.cpp.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type
from helpers import checkpoints

from elm_mlx.config import LlamaConfig, ModelConfig, config_from_dict

FLOATS = {"F32", "F16", "BF16"}
# Where the float16 numbers lie at the beginning or the end of a block whose bytes are drawn.
SCALES = {"Q4_0": (0,), "Q5_0": (0,), "Q8_0": (0,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,)}  # fmt: skip
LARGEST = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128, "Q4_1": 15, "Q5_1": 31, "Q4_K": 15 * 63, "Q5_K": 31 * 63,
           "Q6_K": 32 * 127}  # fmt: skip
QUANTIZED = tuple(SCALES)
Kinds = Callable[[str], str]

# Shapes of which a row holds whole blocks of 256.
LLAMA = checkpoints.LLAMA | {"hidden_size": 256, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
                             "intermediate_size": 512, "num_hidden_layers": 2}  # fmt: skip
OPENELM = checkpoints.OPENELM | {"model_dim": 256, "head_dim": 64, "num_gqa_groups": 2, "ffn_dim_divisor": 256,
                                 "qkv_multipliers": [1.0, 2.0], "ffn_multipliers": [1.0, 2.0],
                                 "num_transformer_layers": 2}  # fmt: skip


def drawn(kind: str, shape: tuple[int, ...], seed: int, size: float = 0.2) -> np.ndarray:
    """The bytes of a tensor of a type, [..., bytes of a row], of which every bit is drawn; values of about `size`."""
    draw = np.random.default_rng(seed)
    if kind in FLOATS:
        floats = (draw.standard_normal(shape) * size).astype(np.float32)
        return gguf.quants.quantize(floats, Type[kind]).view(np.uint8).reshape(*shape[:-1], -1)
    elements, nbytes = gguf.GGML_QUANT_SIZES[Type[kind]]
    blocks = draw.integers(0, 256, (int(np.prod(shape)) // elements, nbytes), dtype=np.uint8)
    for place in SCALES[kind]:
        sign = -1 if place == 2 and kind.endswith("_1") else 1
        scale = sign * draw.uniform(0.3, 1, len(blocks)) * 2 * size / LARGEST[kind]
        blocks[:, place : place + 2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(*shape[:-1], -1)


def values(data: np.ndarray, kind: str) -> np.ndarray:
    """What the gguf package reads from such bytes: float32."""
    return np.asarray(gguf.quants.dequantize(data, Type[kind]), np.float32)


def name_of(name: str) -> str:
    """llama.cpp's name of a tensor of Hugging Face's."""
    for old, new in (
        ("model.embed_tokens", "token_embd"), ("transformer.token_embeddings", "token_embd"), ("lm_head", "output"),
        ("model.norm", "output_norm"), ("transformer.norm", "output_norm"), ("model.layers", "blk"),
        ("transformer.layers", "blk"), ("self_attn.o_proj", "attn_output"), ("attn.out_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"), ("input_layernorm", "attn_norm"), ("attn.qkv_proj", "attn_qkv"),
        ("attn.q_norm", "attn_q_norm"), ("attn.k_norm", "attn_k_norm"), ("self_attn.", "attn_"), ("mlp.", "ffn_"),
        ("ffn.proj_2", "ffn_down"), ("ffn.proj_1", "ffn_gate+ffn_up"),
    ):  # fmt: skip
        name = name.replace(old, new)
    return name.replace("_proj.", ".")


def in_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys as llama.cpp's converter lays them: a head's two halves, row by row in turn."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


class Model:
    """A model's tensors by Hugging Face's names: the bytes of each, its type, and the values that they stand for."""

    def __init__(self, raw: Mapping[str, Any], kinds: Kinds, seed: int = 0) -> None:
        self.config: ModelConfig = config_from_dict(dict(raw))
        self.data: dict[str, tuple[np.ndarray, str]] = {}
        for place, (name, shape) in enumerate(self.config.weight_shapes().items()):
            kind = kinds(name) if len(shape) == 2 else "F32"
            if len(shape) == 1:
                norm = np.random.default_rng(seed + place).standard_normal(shape) * 0.2 + 1
                self.data[name] = norm.astype(np.float32).view(np.uint8), kind
            else:
                self.data[name] = drawn(kind, shape, seed + place, 0.02 if "embed" in name else 0.1), kind

    def values(self) -> dict[str, np.ndarray]:
        """The values of all tensors, float32."""
        return {name: values(data, kind) for name, (data, kind) in self.data.items()}

    def stored(self) -> dict[str, tuple[np.ndarray, str]]:
        """Bytes and type of each tensor by llama.cpp's names."""
        found: dict[str, tuple[np.ndarray, str]] = {}
        for name, (data, kind) in self.data.items():
            there = name_of(name)
            if "+" in there:
                gate, up = np.split(data, 2)
                found |= {there.replace("+ffn_up", ""): (gate, kind), there.replace("ffn_gate+", ""): (up, kind)}
                continue
            heads = {"q_proj": self.config.num_heads[0], "k_proj": self.config.num_kv_heads[0]}
            count = heads.get(name.split(".")[-2], 0) if isinstance(self.config, LlamaConfig) else 0
            found[there] = (in_pairs(data, count) if count else data, kind)
        if self.config.rope.kind == "llama3":
            found["rope_freqs.weight"] = rope_factors(self.config).view(np.uint8), "F32"
        return found


def rope_factors(config: ModelConfig) -> np.ndarray:
    """By what Llama 3's scaling divides each frequency, as llama.cpp's converter computes it."""
    rope, factors = config.rope, []
    for i in range(0, config.head_dim, 2):
        length = 2 * math.pi * rope.theta ** (i / config.head_dim)
        longest, shortest = (rope.original_context / each for each in (rope.low_freq_factor, rope.high_freq_factor))
        if length < shortest:
            factors.append(1.0)
        elif length > longest:
            factors.append(rope.factor)
        else:
            smooth = (rope.original_context / length - rope.low_freq_factor) / (
                rope.high_freq_factor - rope.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / rope.factor + smooth))
    return np.array(factors, np.float32)


def add_settings(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The keys of the architecture, as llama.cpp's converter writes them."""
    is_llama = isinstance(config, LlamaConfig)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.model_dim)
    writer.add_feed_forward_length(config.ffn_dims[0] if is_llama else list(config.ffn_dims))
    writer.add_head_count(config.num_heads[0] if is_llama else list(config.num_heads))
    writer.add_head_count_kv(config.num_kv_heads[0] if is_llama else list(config.num_kv_heads))
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_file_type(15)
    if is_llama:
        writer.add_vocab_size(config.vocab_size)


def add_pieces(writer: gguf.GGUFWriter) -> None:
    """The tests' own small tokenizer, as one of SentencePiece's."""
    content = json.loads((checkpoints.TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    texts = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(texts) - 259)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores([float(min(0, 259 - id)) for id in range(len(texts))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write(
    path: Path,
    model: Model,
    *,
    tokenizer: Callable[[gguf.GGUFWriter], None] | None = add_pieces,
    more: Callable[[gguf.GGUFWriter], None] | None = None,
    parts: int = 1,
) -> Path:
    """Writes a model's file, or the parts of a series: the first of them is what is returned."""
    stored = model.stored()
    split = -(-len(stored) // parts) if parts > 1 else 0
    writer = gguf.GGUFWriter(path, model.config.family, split_max_tensors=split)
    add_settings(writer, model.config)
    if tokenizer:
        tokenizer(writer)
    if more:
        more(writer)
    for name, (data, kind) in stored.items():
        if kind in ("F32", "F16"):
            writer.add_tensor(name, data.view(np.float32 if kind == "F32" else np.float16))
        else:
            writer.add_tensor(name, data, raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if parts == 1 else path.with_name(f"{path.stem}-00001-of-{parts:05}.gguf")


def write_original(folder: Path, raw: Mapping[str, Any], model: Model) -> Path:
    """Writes the safetensors directory that holds the same numbers in float32."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    checkpoints.save(folder, {name: mx.array(array) for name, array in model.values().items()})
    checkpoints.add_tokenizer(folder)
    return folder


def like_q4_k_m(name: str) -> str:
    """The types of a Q4_K_M file: most matrices in Q4_K, the embedding and some others in Q6_K."""
    return "Q6_K" if "embed" in name or "lm_head" in name or ("down_proj" in name or "proj_2" in name) else "Q4_K"
