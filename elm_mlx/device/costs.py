"""What a model takes, in exact numbers from its configuration alone: no array is made."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from elm_mlx.config import ModelConfig

PLANNED_CONTEXT = 4096  # positions that a model's memory is planned for unless a request names its own
HEADROOM_BYTES, HEADROOM_SHARE = 64 * 2**20, 0.1  # for activations and the program itself; a tenth of the weights


def parameter_count(config: ModelConfig) -> int:
    """Weights of the model, a tied head counted once."""
    return sum(prod(shape) for shape in config.weight_shapes().values())


def quantized_bytes(config: ModelConfig, bits: int, group_size: int = 64) -> int:
    """Bytes of the weights in affine quantization, a 16-bit scale and bias a group; norms are too few to count."""
    return parameter_count(config) * (bits * group_size + 32) // (8 * group_size)


def rough_bytes(parameters: int, bits: int | None) -> int:
    """Bytes that a model takes by the number of its parameters alone, without a cache: in groups of 64, or 16 bits."""
    weights = int(parameters * (bits + 0.5 if bits else 16) / 8)
    return weights + HEADROOM_BYTES + int(weights * HEADROOM_SHARE)


def kv_bytes_per_token(config: ModelConfig, float_bits: int = 16) -> int:
    """Bytes that one position takes in the key/value cache, over all layers."""
    return 2 * sum(config.num_kv_heads) * config.head_dim * float_bits // 8


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a model takes while it runs, with a cache for `context` positions."""

    weights: int
    cache: int
    headroom: int
    context: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.headroom

    def __str__(self) -> str:
        parts = f"weights {gigabytes(self.weights)}, cache {gigabytes(self.cache)} for {self.context:,} tokens"
        return f"{gigabytes(self.total)} ({parts}, headroom {gigabytes(self.headroom)})"


def footprint(config: ModelConfig, weights: int, float_bits: int = 16, context: int | None = None) -> Footprint:
    """What a model with so many bytes of weights takes; `context` is at most the model's own."""
    positions = min(context or PLANNED_CONTEXT, config.context_length)
    cache = kv_bytes_per_token(config, float_bits) * positions
    return Footprint(weights, cache, HEADROOM_BYTES + int(weights * HEADROOM_SHARE), positions)


def gigabytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
