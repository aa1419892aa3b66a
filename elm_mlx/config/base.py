"""What every model configuration has, whatever its family, and what follows from it: parameters and bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

from elm_mlx.config.abilities import OURS, Abilities
from elm_mlx.config.quantization import Quantization
from elm_mlx.config.rope import RopeConfig
from elm_mlx.config.values import Values

Shape = tuple[int, ...]
HEAD_NAME = "lm_head.weight"  # the output matrix, where it is not the embedding itself
ROPE_TABLES = tuple(f"rotary_emb.{name}" for name in ("inv_freq", "cos_cached", "sin_cached"))  # computed anyway


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """A model's shape. E is `model_dim`, H `num_heads`, K `num_kv_heads`, D `head_dim`, F `ffn_dims`, V `vocab_size`;
    H, K and F are given per block, since those of OpenELM differ.

    A block is a set of weights, a layer a step of the computation with a cache of its own. They are the same thing but
    in models that run each block `repeats` times in a row."""

    family: ClassVar[str]
    embedding_name: ClassVar[str]
    vocab_size: int
    model_dim: int
    head_dim: int
    num_heads: tuple[int, ...]
    num_kv_heads: tuple[int, ...]
    ffn_dims: tuple[int, ...]
    norm_eps: float
    rope: RopeConfig
    context_length: int
    tied: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    quantization: Quantization | None
    repeats: int = 1

    @property
    def num_blocks(self) -> int:
        """How many sets of a layer's weights there are."""
        return len(self.num_heads)

    @property
    def num_layers(self) -> int:
        """How many layers states pass, each with a cache of its own."""
        return self.num_blocks * self.repeats

    @property
    def cached_heads(self) -> tuple[int, ...]:
        """How many heads of keys and values each layer keeps."""
        return tuple(heads for heads in self.num_kv_heads for _ in range(self.repeats))

    @property
    def model_type(self) -> str:
        """What config.json calls the architecture."""
        return self.family

    @property
    def sharing(self) -> str | None:
        """Which weights layers share, in words; None for nearly all models, whose layers have weights of their own."""
        return None

    @property
    def label(self) -> str:
        """The family as people are told it."""
        return self.family

    @property
    def abilities(self) -> Abilities:
        """What its caches can do."""
        return OURS

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for users about what its configuration leaves open."""
        return ()

    @property
    def parameter_count(self) -> int:
        """The number of weights; a tied head is counted once, with the embedding."""
        return sum(prod(shape) for shape in self.weight_shapes().values())

    @property
    def reads(self) -> float:
        """How often a step reads each weight, on average: above 1 where several layers share weights. An embedding that
        is no head is read by rows alone, and counts as not read."""
        read = sum(self.times_read(name) * prod(shape) for name, shape in self.weight_shapes().items())
        return read / self.parameter_count

    def times_read(self, name: str) -> int:
        """How often a step reads the weight `name`."""
        if name == self.embedding_name:
            return int(self.tied)
        return self.repeats if ".layers." in name else 1

    def quantized_bytes(self, bits: int, group_size: int = 64) -> int:
        """Bytes of the weights in affine quantization: `bits` each, and a 16-bit scale and bias for each group. Norms
        are counted so, too: they are not quantized, but few."""
        return self.parameter_count * (bits * group_size + 32) // (8 * group_size)

    def kv_bytes_per_token(self, float_bits: int = 16) -> int:
        """Bytes that one position takes in the key/value cache, over all layers."""
        return 2 * sum(self.cached_heads) * self.head_dim * float_bits // 8

    @classmethod
    @abstractmethod
    def from_values(cls, values: Values) -> Self:
        """Reads a config.json. Raises BadCheckpoint for impossible values, Unsupported for those that elm-mlx lacks."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The keys of config.json that describe the model, defaults included."""

    @abstractmethod
    def weight_shapes(self) -> dict[str, Shape]:
        """Every tensor of an unquantized checkpoint by its Hugging Face name, with its shape (out, in)."""

    def is_redundant(self, name: str) -> bool:
        """Whether a checkpoint may hold the tensor `name` though no model reads it: RoPE tables, a tied head's copy of
        the embedding."""
        return name.endswith(ROPE_TABLES) or (name == HEAD_NAME and self.tied)


def check_heads(values: Values, head_dim: int, num_heads: Sequence[int], num_kv_heads: Sequence[int]) -> None:
    """Raises BadCheckpoint where RoPE cannot rotate a head, or where key/value heads cannot be shared evenly."""
    if head_dim % 2:
        raise values.wrong(f"head_dim is {head_dim}; RoPE rotates pairs and needs it even.")
    for layer, (heads, kv_heads) in enumerate(zip(num_heads, num_kv_heads, strict=True)):
        if heads % kv_heads:
            raise values.wrong(f"layer {layer} has {heads} query heads, which {kv_heads} key/value heads cannot share "
                               "evenly.")  # fmt: skip
