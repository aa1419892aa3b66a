"""The numbers of the recipe: how much text, which models, how they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORK = HERE / "work"
STORIES = 44_000  # for training: the seeds from 0 on
TOKENIZER_STORIES = 20_000
CURVE_STORIES = 256  # the first held-out ones, for the curve
FAMILY: dict[str, Any] = {
    "model_type": "openelm",
    "architectures": ["OpenELMForCausalLM"],
    "activation_fn_name": "swish",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ffn_dim_divisor": 64,
    "ffn_multipliers": [0.5, 4.0],
    "ffn_with_glu": True,
    "head_dim": 32,
    "initializer_range": 0.02,
    "max_context_length": 512,
    "normalization_layer_name": "rms_norm",
    "normalize_qk_projections": True,
    "num_gqa_groups": 2,
    "qkv_multipliers": [0.5, 1.0],
    "rope_freq_constant": 10000,
    "share_input_output_layers": True,
    "vocab_size": 2048,
}
MODELS = {
    "demo": FAMILY | {"model_dim": 256, "num_transformer_layers": 7},
    "draft": FAMILY
    | {"model_dim": 64, "num_transformer_layers": 1, "ffn_multipliers": [8.0, 8.0], "qkv_multipliers": [4.0, 4.0]},
}
PASSES = {"demo": 1, "draft": 2}  # over the text
TEACHERS = {"draft": "demo"}  # who learns what another finds likely, and not what the text has
OPTIONS: dict[str, Any] = {"matrix_rate": 0.008, "other_rate": 0.006, "held_out": CURVE_STORIES}
PROMPT = "Once upon a time"
