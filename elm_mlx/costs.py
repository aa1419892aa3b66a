"""What a model takes, in exact numbers from its configuration alone: no array is made."""

from __future__ import annotations

from math import prod

from elm_mlx.config import ModelConfig


def parameter_count(config: ModelConfig) -> int:
    """Weights of the model, a tied head counted once."""
    return sum(prod(shape) for shape in config.weight_shapes().values())


def kv_bytes_per_token(config: ModelConfig, float_bits: int = 16) -> int:
    """Bytes that one position takes in the key/value cache, over all layers."""
    return 2 * sum(config.num_kv_heads) * config.head_dim * float_bits // 8
