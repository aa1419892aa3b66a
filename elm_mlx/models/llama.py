"""Llama 3, whole. Source: meta-llama/llama-models models/llama3/model.py, in the Hugging Face layout."""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.models.layers import Block, CacheLayer, FeedForward, Matrix, Model, Parameters, Rope, attention


class Attention:
    """Grouped-query attention; q, k and v come from one product, and q and k rotate in one call."""

    def __init__(self, config: ModelConfig, layer: int, rope: Rope, p: Parameters) -> None:
        name = f"model.layers.{layer}.self_attn"
        self.heads, self.kv_heads = config.num_heads[layer], config.num_kv_heads[layer]
        self.head_dim, self.rope = config.head_dim, rope
        self.qkv = p.fused(f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj")
        self.out = p.linear(f"{name}.o_proj")

    def __call__(self, x: mx.array, cache: CacheLayer | None) -> mx.array:
        B, L, _ = x.shape
        H, K = self.heads, self.kv_heads
        qkv = self.qkv(x).reshape(B, L, H + 2 * K, self.head_dim).swapaxes(1, 2)  # [B, H+2K, L, D]
        qk = self.rope(qkv[:, : H + K], cache.offset if cache is not None else 0)
        return attention(qk[:, :H], qk[:, H:], qkv[:, H + K :], cache, self.out)


class Llama(Model):
    """The Llama 3 family."""

    def _take(self, p: Parameters) -> tuple[Matrix, list[Block], mx.array, Matrix]:
        embedding, rope = p.linear("model.embed_tokens"), Rope(self.config.rope, self.config.head_dim)
        blocks = [self._block(i, rope, p) for i in range(self.config.num_layers)]
        norm = p.vector("model.norm")
        return embedding, blocks, norm, embedding if self.config.tied else p.linear("lm_head")

    def _block(self, layer: int, rope: Rope, p: Parameters) -> Block:
        name = f"model.layers.{layer}"
        gate_up = p.fused(f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj")
        ffn = FeedForward(gate_up, p.linear(f"{name}.mlp.down_proj"), self.gate)
        norms = p.vector(f"{name}.input_layernorm"), p.vector(f"{name}.post_attention_layernorm")
        return Block(Attention(self.config, layer, rope, p), ffn, norms, self.config.norm_eps)
