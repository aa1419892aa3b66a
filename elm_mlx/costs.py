"""What a model takes, in exact numbers from its configuration alone: no array is made."""

from __future__ import annotations

from math import prod

from elm_mlx.config import ModelConfig, Quantization, Shape

# Bits that one group's metadata takes: affine keeps a 16-bit scale and bias, the others one 8-bit scale.
_GROUP_BITS = {"affine": 32, "mxfp4": 8, "mxfp8": 8, "nvfp4": 8}


def parameter_count(config: ModelConfig) -> int:
    """Weights of the model, a tied head counted once."""
    return sum(prod(shape) for shape in config.weight_shapes().values())


def stored_bits(shape: Shape, setting: Quantization | None, float_bits: int = 16) -> int:
    """Bits that one weight takes on disk. With 32-bit floats, affine scales and biases are 32-bit too."""
    if setting is None:
        return prod(shape) * float_bits
    group_bits = _GROUP_BITS[setting.mode] * (float_bits // 16 if setting.mode == "affine" else 1)
    return prod(shape) * setting.bits + prod(shape) // setting.group_size * group_bits


def weight_bytes(config: ModelConfig, float_bits: int = 16) -> int:
    """Bytes of all weights as stored, at the configuration's quantization."""
    q = config.quantization
    bits = (stored_bits(s, q.of(n, s) if q else None, float_bits) for n, s in config.weight_shapes().items())
    return sum(bits) // 8


def kv_bytes_per_token(config: ModelConfig, float_bits: int = 16) -> int:
    """Bytes that one position takes in the key/value cache, over all layers."""
    return 2 * sum(config.num_kv_heads) * config.head_dim * float_bits // 8
