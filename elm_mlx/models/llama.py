"""The whole of Llama 3. Source: meta-llama/llama-models models/llama3/model.py, in the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.models.attention import QKV, split_heads
from elm_mlx.models.blocks import Block, FeedForward, SiluGate
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.rope import Offset, Rotation


class LlamaProjections:
    """Grouped-query attention; q, k and v come from one product, and q and k rotate in one call."""

    def __init__(self, config: ModelConfig, layer: int, rotation: Rotation, p: Parameters) -> None:
        name = f"model.layers.{layer}.self_attn"
        self.heads, self.kv_heads = config.num_heads[layer], config.num_kv_heads[layer]
        self.head_dim, self.rotate = config.head_dim, rotation
        self.qkv = p.fuse(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj")
        self.out = p.linear(f"{name}.o_proj")

    def __call__(self, x: mx.array, offset: Offset) -> QKV:
        H, K = self.heads, self.kv_heads
        qkv = split_heads(self.qkv(x), self.head_dim)  # [B, H+2K, L, D]
        qk = self.rotate(qkv[:, : H + K], offset)
        return qk[:, :H], qk[:, H:], qkv[:, H + K :]


class Llama(Model):
    """The Llama 3 family."""

    EMBEDDING, NORM, LAYERS = "model.embed_tokens", "model.norm", "model.layers"
    PRODUCTS: ClassVar = {
        "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.out": ("self_attn.o_proj",),
        "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "ffn.down": ("mlp.down_proj",),
    }

    @classmethod
    def _blocks(cls, config: ModelConfig, p: Parameters, gate: SiluGate) -> Iterator[Block]:
        rotation = Rotation(config.rope, config.head_dim)
        return (cls._block(config, layer, rotation, p, gate) for layer in range(config.num_layers))

    @classmethod
    def block(cls, config: ModelConfig, layer: int, p: Parameters) -> Block:
        """One layer alone, built from its parameters."""
        return cls._block(config, layer, Rotation(config.rope, config.head_dim), p, SiluGate())

    @staticmethod
    def _block(config: ModelConfig, layer: int, rotation: Rotation, p: Parameters, gate: SiluGate) -> Block:
        name = f"model.layers.{layer}"
        gate_up = p.fuse(f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
        ffn = FeedForward(gate_up, p.linear(f"{name}.mlp.down_proj"), gate)
        norms = p.vector(f"{name}.input_layernorm"), p.vector(f"{name}.post_attention_layernorm")
        return Block(LlamaProjections(config, layer, rotation, p), ffn, norms, config.norm_eps)
