"""Tiny seeded checkpoints of other families, in the layout of mlx-lm's conversions, and mlx-lm's own answers to them.

Importing this imports nothing of mlx-lm; calling it does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from helpers.checkpoints import VOCAB, add_tokenizer

USUAL = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "rope_theta": 10000.0,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
SMALL_WINDOW = 24  # so that prompts of the tests leave it

# What a family's config.json has beside the USUAL; None takes a key out.
FAMILIES: dict[str, dict[str, Any]] = {
    "phi3": {"rope_scaling": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {"attention_bias": False},
    "starcoder2": {"norm_epsilon": 1e-5, "use_bias": True},
    "nemotron": {"norm_eps": 1e-5, "partial_rotary_factor": 0.5, "hidden_act": "relu2"},
    "recurrent_gemma": {
        "attention_bias": False, "conv1d_width": 4, "lru_width": 64, "logits_soft_cap": 30.0, "num_key_value_heads": 1,
        "attention_window_size": SMALL_WINDOW, "block_types": ["recurrent", "recurrent", "attention"], "head_dim": 16,
        "max_position_embeddings": None, "embeddings_scale_by_sqrt_dim": True,
    },
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
               "query_pre_attn_scalar": 16, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": SMALL_WINDOW,
                    "sliding_window_pattern": 2, "num_key_value_heads": 1, "rope_global_base_freq": 1e6,
                    "rope_local_base_freq": 1e4, "tie_word_embeddings": True},
}  # fmt: skip


def guest_config(family: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a tiny model of a family."""
    raw = {"model_type": family, **USUAL, **FAMILIES.get(family, {}), **changes}
    return {key: value for key, value in raw.items() if value is not None}


def write_guest(folder: Path, family: str, bits: int | None = None, seed: int = 0, **changes: Any) -> Path:
    """Writes a tiny model of a family with random weights, quantized to `bits` if given, and the tests' tokenizer."""
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from elm_mlx.config import config_or_guest
    from elm_mlx.config.guest import GuestConfig
    from elm_mlx.store.mlx_lm_classes import network_for

    raw = guest_config(family, **changes)
    config = config_or_guest(raw)
    assert isinstance(config, GuestConfig)
    mx.random.seed(seed)
    module = network_for(config).module
    spread = [(name, spread_out(name, array)) for name, array in tree_flatten(module.parameters())]
    module.load_weights(spread)
    if raw["tie_word_embeddings"] and "lm_head" in module:
        module.pop("lm_head")
    if bits:
        nn.quantize(module, 32, bits)
        raw["quantization"] = {"group_size": 32, "bits": bits}
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(module.parameters())), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(raw))
    add_tokenizer(folder)
    return folder


def spread_out(name: str, array: mx.array) -> mx.array:
    """Random weights whose answers wander: matrices several times as large as nn.Linear draws them."""
    if array.ndim < 2 or "conv" in name:
        return array + 0.1 * mx.random.normal(array.shape)
    return mx.random.normal(array.shape) * (0.03 if "embed" in name else 3.0 / array.shape[-1] ** 0.5)


def their_ids(folder: Path, prompt: list[int], tokens: int) -> list[int]:
    """The ids of mlx-lm's own greedy answer, by its own loop and loader."""
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    module, _ = load_model(folder)
    steps = generate_step(mx.array(prompt), module, max_tokens=tokens)
    return [int(token) for token, _ in steps]
