"""BitNet b1.58's configuration. Source: transformers' BitNetConfig, and the model card's config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from elm_mlx.config.base import Shape
from elm_mlx.config.llama import LlamaConfig


@dataclass(frozen=True, kw_only=True)
class BitNetConfig(LlamaConfig):
    """BitNet b1.58 2B4T: Llama's shape, with a norm before each output product (`attn_sub_norm`, `ffn_sub_norm`) and
    the square of ReLU in its gate. Its matrices hold -1, 0 and 1, times a number for each matrix."""

    family: ClassVar[str] = "bitnet"
    activations: ClassVar[tuple[str, ...]] = ("relu2",)

    def _block_shapes(self, block: int) -> dict[str, Shape]:
        width = self.num_heads[block] * self.head_dim
        return super()._block_shapes(block) | {"self_attn.attn_sub_norm": (width,)}

    def _ffn_shapes(self, block: int) -> dict[str, Shape]:
        return super()._ffn_shapes(block) | {"mlp.ffn_sub_norm": (self.ffn_dims[block],)}
