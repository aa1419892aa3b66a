"""The shapes of models that random weights are made for: published ones, and narrow ones."""

from __future__ import annotations

from typing import Any

CONTEXT = 131_072  # random weights were trained for no context
NARROW_VOCAB = 2048  # the demo's, whose tokenizer goes with every shape


def openelm(layers: int, width: int, head_dim: int, divisor: int = 256, vocab: int = 32_000) -> dict[str, Any]:
    """The config.json of an OpenELM. Source: the cards of apple/OpenELM-270M to 3B, which differ in three numbers."""
    return {
        "model_type": "openelm", "vocab_size": vocab, "model_dim": width, "head_dim": head_dim,
        "num_transformer_layers": layers, "num_gqa_groups": 4, "qkv_multipliers": [0.5, 1.0],
        "ffn_multipliers": [0.5, 4.0], "ffn_dim_divisor": divisor, "normalize_qk_projections": True,
        "share_input_output_layers": True, "max_context_length": CONTEXT, "eos_token_id": [],
    }  # fmt: skip


def llama(
    layers: int, width: int, heads: int, ffn: int, factor: float | None = None, *,
    kv_heads: int = 8, tied: bool = True, vocab: int = 128_256,
) -> dict[str, Any]:  # fmt: skip
    """The config.json of a Llama 3, its RoPE scaled by `factor`. Source: the cards of meta-llama's repositories."""
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}  # fmt: skip
    return {
        "model_type": "llama", "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn, "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0, "rope_scaling": scaling if factor else None, "tie_word_embeddings": tied,
        "max_position_embeddings": CONTEXT, "eos_token_id": [],
    }  # fmt: skip


# Arithmetic takes almost none of these models' time: they measure the work around it.
NARROW = {
    "openelm-20x64": openelm(20, 64, 16, divisor=16, vocab=NARROW_VOCAB),
    "llama-16x64": llama(16, 64, 8, 256, kv_heads=2, vocab=NARROW_VOCAB),
}
SHAPES = NARROW | {
    "openelm-270m": openelm(16, 1280, 64),
    "openelm-450m": openelm(20, 1536, 64),
    "openelm-1.1b": openelm(28, 2048, 64),
    "openelm-3b": openelm(36, 3072, 128),
    "llama-3.2-1b": llama(16, 2048, 32, 8192, 32.0),
    "llama-3.2-3b": llama(28, 3072, 24, 8192, 32.0),
    "llama-3-8b": llama(32, 4096, 32, 14_336, tied=False),
}
