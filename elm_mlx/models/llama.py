"""The whole of Llama 3, and of what shares its blocks: MobileLLM, MobiLlama.

Sources: meta-llama/llama-models models/llama3/model.py, in the Hugging Face layout; facebookresearch/MobileLLM
utils/modeling_llama.py (a block runs twice in a row); mbzuai-oryx/MobiLlama model_utils/modeling_mobillama.py (one
feed-forward).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import mlx.core as mx

from elm_mlx.config import LlamaConfig, ModelConfig
from elm_mlx.models.attention import QKV, split_heads
from elm_mlx.models.blocks import Block, FeedForward, Gate, unchanged
from elm_mlx.models.matrices import Product
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.rope import Position, Rotation


class LlamaProjections:
    """Grouped-query attention; q, k and v come from one product, and rotate in one call."""

    def __init__(self, config: ModelConfig, layer: int, rotation: Rotation, p: Parameters) -> None:
        name = f"model.layers.{layer}.self_attn"
        self.heads, self.kv_heads = config.num_heads[layer], config.num_kv_heads[layer]
        self.head_dim, self.rotate = config.head_dim, rotation
        self.qkv = p.fuse(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj")
        self.out: Product = p.linear(f"{name}.o_proj")
        self.before_out: Callable[[mx.array], mx.array] = unchanged

    def __call__(self, x: mx.array, position: Position) -> QKV:
        H, K = self.heads, self.kv_heads
        qkv = split_heads(self.qkv(x), self.head_dim)  # [B, H+2K, L, D]
        q, k, _ = mx.split(self.rotate(qkv, position), [H, H + K], axis=1)  # v too: to leave it out would be a copy
        return q, k, qkv[:, H + K :]


class Llama(Model):
    """The Llama 3 family."""

    EMBEDDING, NORM, LAYERS = "model.embed_tokens", "model.norm", "model.layers"
    PRODUCTS: ClassVar = {
        "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.out": ("self_attn.o_proj",),
        "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "ffn.down": ("mlp.down_proj",),
    }

    def stem(self, block: int, matrix: str) -> str:
        """The name of a block's matrix without .weight, by what PRODUCTS calls it."""
        shared = matrix.startswith("mlp.") and llama_config(self.config).shared_ffn
        return f"model.{matrix}" if shared else super().stem(block, matrix)

    @classmethod
    def numbered_blocks(cls, config: ModelConfig, p: Parameters, gate: Gate, numbers: Iterable[int]) -> Iterator[Block]:
        rotation = Rotation(config.rope, config.head_dim)
        feed_forward = cls._feed_forwards(llama_config(config), p, gate)
        return (
            cls._block(config, p, LlamaProjections(config, number, rotation, p), number, feed_forward(number))
            for number in numbers
        )

    @classmethod
    def block(cls, config: ModelConfig, layer: int, p: Parameters) -> Block:
        """One block alone, built from its parameters."""
        projections = LlamaProjections(config, layer, Rotation(config.rope, config.head_dim), p)
        feed_forward = cls._feed_forwards(llama_config(config), p, cls.new_gate())
        return cls._block(config, p, projections, layer, feed_forward(layer))

    @staticmethod
    def _block(
        config: ModelConfig, p: Parameters, projections: LlamaProjections, number: int, ffn: FeedForward
    ) -> Block:
        name = f"model.layers.{number}"
        norms = p.vector(f"{name}.input_layernorm"), p.vector(f"{name}.post_attention_layernorm")
        return Block(projections, ffn, norms, config.norm_eps)

    @classmethod
    def _feed_forwards(cls, config: LlamaConfig, p: Parameters, gate: Gate) -> Callable[[int], FeedForward]:
        """What makes the feed-forward of a block by its number: each its own, or all the same one."""
        if config.shared_ffn:
            one = cls._feed_forward("model.mlp", config, p, gate)
            return lambda number: one
        return lambda number: cls._feed_forward(f"model.layers.{number}.mlp", config, p, gate)

    @classmethod
    def _feed_forward(cls, name: str, config: LlamaConfig, p: Parameters, gate: Gate) -> FeedForward:
        """The feed-forward whose matrices are named so."""
        return FeedForward(p.fuse(f"{name}.gate_proj", f"{name}.up_proj"), p.linear(f"{name}.down_proj"), gate)


def llama_config(config: ModelConfig) -> LlamaConfig:
    """A configuration that is Llama's, as the type checker is to know."""
    assert isinstance(config, LlamaConfig)
    return config
