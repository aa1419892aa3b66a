"""What Apple's mlx-swift-lm wants of a directory is in every directory that elm-mlx writes, by a frozen list of names.

Sources: Libraries/MLXLLM/Models/OpenELM.swift (commit 22e3da1fc699) and Llama.swift (commit 1ec05406b993) of
github.com/ml-explore/mlx-swift-lm. Its loader wants every parameter of its modules in the safetensors files, and no
others; of config.json it decodes the keys below. Nobody has loaded one of these directories in Swift yet.

Where its OpenELM differs: it does not read `num_query_heads` or `ffn_multipliers`, but computes them as Apple's code
does for the published models; and its head of an untied model has the number of layers as its width, so such a model
cannot load there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

from elm_mlx.config import config_from_dict
from elm_mlx.convert import convert

# Modules with a matrix, and those with a vector alone, of one layer and beside the layers.
OPENELM = {
    "matrices": ["attn.qkv_proj", "attn.out_proj", "ffn.proj_1", "ffn.proj_2"],
    "vectors": ["attn.q_norm", "attn.k_norm", "ffn_norm", "attn_norm"],
    "layers": "transformer.layers.{}.", "embedding": "transformer.token_embeddings", "norm": "transformer.norm",
    "required": {"model_type": str, "head_dim": int, "num_transformer_layers": int, "model_dim": int,
                 "vocab_size": int, "ffn_dim_divisor": int},
    "optional": {"ffn_with_glu": bool, "normalize_qk_projections": bool, "share_input_output_layers": bool},
}  # fmt: skip
LLAMA = {
    "matrices": [*(f"self_attn.{kind}_proj" for kind in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    "vectors": ["input_layernorm", "post_attention_layernorm"],
    "layers": "model.layers.{}.", "embedding": "model.embed_tokens", "norm": "model.norm",
    "required": {"hidden_size": int, "num_hidden_layers": int, "intermediate_size": int, "num_attention_heads": int,
                 "rms_norm_eps": float, "vocab_size": int},
    "optional": {"head_dim": int, "num_key_value_heads": int, "max_position_embeddings": int, "rope_theta": float,
                 "rope_traditional": bool, "tie_word_embeddings": bool, "attention_bias": bool, "mlp_bias": bool},
}  # fmt: skip
FAMILIES = {
    "openelm": (OPENELM, checkpoints.OPENELM),
    "llama": (LLAMA, checkpoints.CONFIGS["llama-3.1"]),
    "tied": (LLAMA, checkpoints.CONFIGS["llama-3.2"]),
    "spelt anew": (LLAMA, checkpoints.CONFIGS["llama-3.2-v5"]),
}


def names(wanted: dict[str, Any], layers: int, head: bool) -> set[str]:
    """Every weight of the Swift modules. A matrix with scales beside it becomes a quantized one when it is loaded."""
    matrices = [wanted["embedding"], *(["lm_head"] if head else [])]
    vectors = [wanted["norm"]]
    for layer in range(layers):
        matrices += [wanted["layers"].format(layer) + name for name in wanted["matrices"]]
        vectors += [wanted["layers"].format(layer) + name for name in wanted["vectors"]]
    return {f"{name}.weight" for name in [*matrices, *vectors]}


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_converted_directory_has_the_names_and_keys_that_swift_reads(
    family: str, bits: int | None, tmp_path: Path
) -> None:
    wanted, raw = FAMILIES[family]
    source = checkpoints.write(tmp_path / "s", raw)
    how = {"bits": bits, "group_size": 32} if bits else {}
    folder = convert(source, tmp_path / "m", **how).output
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key, kind in wanted["required"].items():
        assert isinstance(config[key], (int, float) if kind is float else kind), key
    for key, kind in wanted["optional"].items():
        assert isinstance(config.get(key, kind()), (int, float) if kind is float else kind), key
    if bits:
        assert config["quantization"] == config["quantization"] | {"group_size": 32, "bits": bits}
    if scaling := config.get("rope_scaling"):  # texts and numbers alone, of three kinds
        assert scaling["rope_type"] == "llama3"
        assert all(isinstance(value, str | int | float) for value in scaling.values())
    tied = config.get("tie_word_embeddings", wanted is LLAMA or config.get("share_input_output_layers", True))
    layers = config.get("num_hidden_layers", config.get("num_transformer_layers"))
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    expected = names(wanted, layers, not tied)
    assert {name for name in arrays if name.endswith(".weight")} == expected
    for kind in ("scales", "biases"):
        beside = {name.removesuffix(kind) + "weight" for name in arrays if name.endswith(kind)}
        assert beside <= expected
        assert bool(beside) == bool(bits)
    assert all(name.rpartition(".")[2] in ("weight", "scales", "biases") for name in arrays)
    assert (folder / "tokenizer.json").is_file()
    assert (folder / "tokenizer_config.json").is_file()


# The published OpenELM models, as Swift computes them.


def strode(first: float, last: float, layers: int) -> list[float]:
    """Swift's `stride(from:through:by:)` over Float, rounded to hundredths: a start plus i steps, with one rounding."""
    start, step = np.float32(first), np.float32((np.float32(last) - np.float32(first)) / np.float32(layers - 1))
    places = [np.float32(float(start) + i * float(step)) for i in range(layers + 1)]
    return [float(np.float32(round(float(np.float32(p * np.float32(100))))) / 100) for p in places if p <= last]


def divisible(dim: int, share: float, divisor: int) -> int:
    """The nearest multiple of their product, a Float, and the next one where that is less than nine tenths of it."""
    value = float(np.float32(dim) * np.float32(share))
    down = max(divisor, math.floor((value + divisor / 2) / divisor) * divisor)
    return down + divisor if down < 0.9 * value else down


@pytest.mark.parametrize("size", list(checkpoints.PUBLISHED["openelm"]))
def test_swift_computes_the_published_heads_and_widths(size: str) -> None:
    raw = checkpoints.PUBLISHED["openelm"][size]["config"]
    config = config_from_dict(raw)
    layers, dim, head = raw["num_transformer_layers"], raw["model_dim"], raw["head_dim"]
    queries = [divisible(dim, share, head * 4) // head for share in strode(0.5, 1.0, layers)]
    widths = [divisible(dim, share, raw["ffn_dim_divisor"]) for share in strode(0.5, 4.0, layers)]
    assert queries == list(config.num_heads)
    assert [count // 4 for count in queries] == list(config.num_kv_heads)
    assert widths == checkpoints.PUBLISHED["openelm"][size]["ffn_dims"]
    assert raw.get("rope_freq_constant", 10000) == 10000
