"""The whole of OpenELM. Source: apple/corenet general_gpt.py and the model cards' modeling_openelm.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import mlx.core as mx

from elm_mlx.config import ModelConfig, OpenELMConfig
from elm_mlx.models.attention import QKV, split_heads
from elm_mlx.models.blocks import Block, FeedForward, Gate, unchanged
from elm_mlx.models.matrices import Product
from elm_mlx.models.model import Model
from elm_mlx.models.parameters import Parameters
from elm_mlx.models.rope import Position, Rotation


class OpenELMProjections:
    """Grouped-query attention, q and k normalised per head before they are rotated."""

    def __init__(self, config: OpenELMConfig, layer: int, rotation: Rotation, p: Parameters) -> None:
        name = f"transformer.layers.{layer}.attn"
        self.heads, self.kv_heads = config.num_heads[layer], config.num_kv_heads[layer]
        self.head_dim, self.eps = config.head_dim, config.norm_eps
        self.rotate = rotation
        self.qkv = p.linear(f"{name}.qkv_proj")
        self.out: Product = p.linear(f"{name}.out_proj")
        self.before_out: Callable[[mx.array], mx.array] = unchanged
        self.qk_norm = self._per_head(p, name) if config.normalize_qk else None

    def _per_head(self, p: Parameters, name: str) -> mx.array:
        """q_norm for every query head, k_norm for every key head: [H+K, 1, D], one product for both."""
        q, k = p.vector(f"{name}.q_norm"), p.vector(f"{name}.k_norm")
        both = mx.stack([q] * self.heads + [k] * self.kv_heads)[:, None, :]
        p.ready(both)
        return both

    def __call__(self, x: mx.array, position: Position) -> QKV:
        H, K = self.heads, self.kv_heads
        qkv = split_heads(self.qkv(x), self.head_dim)  # [B, H+2K, L, D]
        if self.qk_norm is None:
            qk = qkv[:, : H + K]
        else:  # the norm takes v, too: rows of a batch without it would have to be copied
            qk = mx.fast.rms_norm(qkv, None, self.eps)[:, : H + K] * self.qk_norm
        q, k = mx.split(self.rotate(qk, position), [H], axis=1)
        return q, k, qkv[:, H + K :]


class OpenELM(Model):
    """Layer-wise scaled transformer: every layer has its own number of heads and FFN width."""

    EMBEDDING, NORM, LAYERS = "transformer.token_embeddings", "transformer.norm", "transformer.layers"
    PRODUCTS: ClassVar = {
        "attn.qkv": ("attn.qkv_proj",),
        "attn.out": ("attn.out_proj",),
        "ffn.gate_up": ("ffn.proj_1",),
        "ffn.down": ("ffn.proj_2",),
    }

    @classmethod
    def numbered_blocks(cls, config: ModelConfig, p: Parameters, gate: Gate, numbers: Iterable[int]) -> Iterator[Block]:
        assert isinstance(config, OpenELMConfig)
        rotation = Rotation(config.rope, config.head_dim)
        return (cls._block(config, OpenELMProjections(config, n, rotation, p), n, p, gate) for n in numbers)

    @classmethod
    def block(cls, config: ModelConfig, layer: int, p: Parameters) -> Block:
        """One layer alone, built from its parameters."""
        assert isinstance(config, OpenELMConfig)
        projections = OpenELMProjections(config, layer, Rotation(config.rope, config.head_dim), p)
        return cls._block(config, projections, layer, p, cls.new_gate())

    @staticmethod
    def _block(config: OpenELMConfig, projections: OpenELMProjections, layer: int, p: Parameters, gate: Gate) -> Block:
        name = f"transformer.layers.{layer}"
        # proj_1 holds the gate's rows, then the up rows.
        ffn = FeedForward(p.linear(f"{name}.ffn.proj_1"), p.linear(f"{name}.ffn.proj_2"), gate)
        norms = p.vector(f"{name}.attn_norm"), p.vector(f"{name}.ffn_norm")
        return Block(projections, ffn, norms, config.norm_eps)
