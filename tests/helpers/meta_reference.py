"""Llama as Meta's model.py computes it, over Meta's own names and order of rows: NumPy, slow and plain on purpose.

RoPE turns neighbouring elements of a head as one complex number, so a wrong order of rows changes the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def frequencies(params: dict[str, Any], factor: float) -> np.ndarray:
    """The angle per position of each pair, slowed down for pairs of less than four turns in the original context."""
    width = params["dim"] // params["n_heads"]
    plain = params["rope_theta"] ** -(np.arange(0, width, 2) / width)
    if not params.get("use_scaled_rope"):
        return plain
    turns = 8192 * plain / (2 * np.pi)  # within the original context
    blend = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 - blend) * plain / factor + blend * plain


def logits(params: dict[str, Any], w: dict[str, np.ndarray], ids: list[int], factor: float = 8.0) -> np.ndarray:
    """Logits [L, V] of one full pass, in float64."""
    heads, kv_heads = params["n_heads"], params["n_kv_heads"]
    length, width = len(ids), params["dim"] // heads
    turn = np.exp(1j * np.outer(np.arange(length), frequencies(params, factor)))[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + params["norm_eps"]) * w[name]

    def rope(x: np.ndarray) -> np.ndarray:
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    h = w["tok_embeddings.weight"][ids].astype(np.float64)
    for i in range(params["n_layers"]):
        at = f"layers.{i}"
        x = norm(h, f"{at}.attention_norm.weight")
        q, k, v = ((x @ w[f"{at}.attention.w{n}.weight"].T).reshape(length, -1, width) for n in "qkv")
        k, v = (t.repeat(heads // kv_heads, 1) for t in (rope(k), v))
        scores = np.einsum("ihd,jhd->hij", rope(q), k) / np.sqrt(width)
        scores = np.exp(scores - scores.max(-1, keepdims=True)) * np.tri(length)
        mixed = np.einsum("hij,jhd->ihd", scores / scores.sum(-1, keepdims=True), v)
        h = h + mixed.reshape(length, -1) @ w[f"{at}.attention.wo.weight"].T
        x = norm(h, f"{at}.ffn_norm.weight")
        gate, up = (x @ w[f"{at}.feed_forward.{n}.weight"].T for n in ("w1", "w3"))
        h = h + (gate / (1 + np.exp(-gate)) * up) @ w[f"{at}.feed_forward.w2.weight"].T
    return norm(h, "norm.weight") @ w.get("output.weight", w["tok_embeddings.weight"]).T
