"""OpenELM in PyTorch, for training: the parameters have the names and shapes of the Hugging Face checkpoints.

Shapes: B batch, L positions, H query heads, K kv heads, D head dim, E model dim, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from elm_mlx.config import OpenELMConfig
from elm_mlx.config.values import Values


def rope_tables(length: int, width: int, base: float) -> torch.Tensor:
    """Cosines and signed sines, [2, L, 1, D]: position p turns pair j by p * base ** (-2j / D)."""
    angles = torch.outer(torch.arange(length).float(), base ** (-torch.arange(0, width, 2).float() / width))
    sin = torch.cat([-angles.sin(), angles.sin()], dim=-1)
    return torch.stack([angles.cos().repeat(1, 2), sin]).unsqueeze(2)


def rotate(x: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """x [B, L, H, D] with each pair (j, j + D / 2) turned by its position."""
    cos, sin = tables
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [B, L, H, D], k and v [B, L, K, D] -> [B, L, H * D].

    Written out because PyTorch's fused attention takes three times as long in bfloat16 on a CPU.
    """
    length, width = q.shape[1], q.shape[3]
    q = (q * width**-0.5).unflatten(2, (k.shape[2], -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    future = torch.full((length, length), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = (q @ k.transpose(-1, -2)).unflatten(2, (-1, length)) + future
    mixed = scores.softmax(-1).flatten(2, 3) @ v
    return mixed.unflatten(2, (-1, length)).permute(0, 3, 1, 2, 4).flatten(2)


class Attention(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        heads, kv_heads, self.width = config.num_heads[layer], config.num_kv_heads[layer], config.head_dim
        self.parts = [heads, kv_heads, kv_heads]
        self.qkv_proj = nn.Linear(config.model_dim, sum(self.parts) * self.width, bias=False)
        self.out_proj = nn.Linear(heads * self.width, config.model_dim, bias=False)
        self.q_norm: nn.Module = nn.RMSNorm(self.width, config.norm_eps) if config.normalize_qk else nn.Identity()
        self.k_norm: nn.Module = nn.RMSNorm(self.width, config.norm_eps) if config.normalize_qk else nn.Identity()

    def forward(self, x: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """x [B, L, E] -> [B, L, E]."""
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.width))
        q, k, v = qkv.split(self.parts, dim=2)
        q, k = rotate(self.q_norm(q.float()), tables).type_as(v), rotate(self.k_norm(k.float()), tables).type_as(v)
        return self.out_proj(attend(q, k, v))


class FeedForward(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        width = config.ffn_dims[layer]
        self.proj_1 = nn.Linear(config.model_dim, 2 * width, bias=False)
        self.proj_2 = nn.Linear(width, config.model_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, L, E] -> [B, L, E]."""
        gate, up = self.proj_1(x).chunk(2, dim=-1)
        return self.proj_2(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, config: OpenELMConfig, layer: int) -> None:
        super().__init__()
        self.attn, self.ffn = Attention(config, layer), FeedForward(config, layer)
        self.attn_norm = nn.RMSNorm(config.model_dim, config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.model_dim, config.norm_eps)

    def forward(self, h: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """h [B, L, E] -> [B, L, E]."""
        h = h + self.attn(self.attn_norm(h), tables)
        return h + self.ffn(self.ffn_norm(h))


class Body(nn.Module):
    tables: torch.Tensor

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__()
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_layers))
        self.norm = nn.RMSNorm(config.model_dim, config.norm_eps)
        tables = rope_tables(config.context_length, config.head_dim, config.rope.theta)
        self.register_buffer("tables", tables, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [B, L] -> states [B, L, E]."""
        h, tables = self.token_embeddings(ids), self.tables[:, : ids.shape[1]]
        for layer in self.layers:
            h = layer(h, tables)
        return self.norm(h)


class OpenELM(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        """The model of a config.json that ties its output to the embedding."""
        super().__init__()
        parsed = OpenELMConfig.from_values(Values(config))
        self.transformer = Body(parsed)
        initialise(self, parsed)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [B, L] -> logits [B, L, V]."""
        return F.linear(self.transformer(ids), self.transformer.token_embeddings.weight)


def initialise(model: nn.Module, config: OpenELMConfig) -> None:
    """Draws matrices from a normal distribution with deviation fan_in ** -0.5; those that write to the residual stream
    get smaller ones, the deeper the model."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            depth = 2 * config.num_layers if name.endswith(("out_proj.weight", "proj_2.weight")) else 1
            nn.init.normal_(weight, std=(weight.shape[1] * depth) ** -0.5)
    nn.init.normal_(model.get_parameter(config.embedding_name), std=0.02)
