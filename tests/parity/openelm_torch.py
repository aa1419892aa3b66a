"""OpenELM in PyTorch, written for the tests from its published description alone; slow and plain on purpose.

It shares no code with elm_mlx: it reads names and shapes from config.json by code of its own. Shapes: B batch,
L positions, H query heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def make_divisible(value: float, divisor: int) -> int:
    new = max(divisor, int(value + divisor / 2) // divisor * divisor)
    if new < 0.9 * value:
        new += divisor
    return new


def spread(low_high: list[float], layers: int) -> list[float]:
    return [round(float(v), 2) for v in torch.linspace(*low_high, layers, dtype=torch.float64)]


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x) * self.weight


def rotate(x: torch.Tensor, base: float) -> torch.Tensor:
    """x [B, H, L, D] with each pair j (elements j and j + D / 2) turned at position p by p * base ** (-2j / D)."""
    length, width = x.shape[-2:]
    angles = torch.outer(torch.arange(length).float(), base ** (-torch.arange(0, width, 2).float() / width))
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    left, right = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-right, left], -1) * sin).type_as(x)


class Attention(nn.Module):
    def __init__(self, c: dict[str, Any], heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width, self.base = heads, kv_heads, c["head_dim"], c["rope_freq_constant"]
        self.qkv_proj = nn.Linear(c["model_dim"], (heads + 2 * kv_heads) * self.width, bias=False)
        self.out_proj = nn.Linear(heads * self.width, c["model_dim"], bias=False)
        self.normed = c["normalize_qk_projections"]
        if self.normed:
            self.q_norm, self.k_norm = RMSNorm(self.width), RMSNorm(self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv_proj(x).view(batch, length, -1, self.width).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, self.base), rotate(k, self.base)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.width)
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        mixed = scores.float().softmax(-1).type_as(v) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, model_dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Linear(model_dim, 2 * ffn_dim, bias=False)
        self.proj_2 = nn.Linear(ffn_dim, model_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.proj_1(x).chunk(2, dim=-1)
        return self.proj_2(F.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, c: dict[str, Any], heads: int, kv_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.attn, self.ffn = Attention(c, heads, kv_heads), FeedForward(c["model_dim"], ffn_dim)
        self.attn_norm, self.ffn_norm = RMSNorm(c["model_dim"]), RMSNorm(c["model_dim"])

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        h = h + self.attn(self.attn_norm(h))
        return h + self.ffn(self.ffn_norm(h))


class Body(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        layers, dim, width, groups = (
            c["num_transformer_layers"], c["model_dim"], c["head_dim"], c["num_gqa_groups"]
        )  # fmt: skip
        heads = [make_divisible(m * dim, width * groups) // width for m in spread(c["qkv_multipliers"], layers)]
        ffns = [make_divisible(m * dim, c["ffn_dim_divisor"]) for m in spread(c["ffn_multipliers"], layers)]
        self.token_embeddings = nn.Embedding(c["vocab_size"], dim)
        self.layers = nn.ModuleList(Layer(c, h, h // groups, f) for h, f in zip(heads, ffns, strict=True))
        self.norm = RMSNorm(dim)


class OpenELM(nn.Module):
    """ids [B, L] -> logits [B, L, V]."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.transformer = Body(c)
        tied = c["share_input_output_layers"]
        self.lm_head = None if tied else nn.Linear(c["model_dim"], c["vocab_size"], bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.transformer.token_embeddings(ids)
        for layer in self.transformer.layers:
            h = layer(h)
        h = self.transformer.norm(h)
        return h @ self.transformer.token_embeddings.weight.T if self.lm_head is None else self.lm_head(h)
