"""From logits to the next id: greedy, or temperature, then top-k, then top-p, then min-p, then a draw.

The order is that of transformers' generation, where a model's generation_config comes from.
"""

from __future__ import annotations

import math
import secrets

import mlx.core as mx

from elm_mlx.arguments import whole_number
from elm_mlx.config.generation import Sampling

MIN_TOP_P = 1e-6  # smaller ones become 0 in float32 and would keep nothing


class Sampler:
    """Draws the ids of one request; its key is its own, so requests never disturb each other.

    `seed` any integer (0 is a seed like any other); None draws one from the system.
    """

    def __init__(self, sampling: Sampling, seed: int | None = None) -> None:
        self.sampling = sampling
        self.key = mx.random.key(secrets.randbits(64) if seed is None else whole_number("seed", seed) % 2**64)

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits [B, V] -> ids [B]."""
        if self.sampling.is_greedy:
            return mx.argmax(logits, axis=-1)
        self.key, now = mx.random.split(self.key)
        return draw(logits, self.sampling, now)


def draw(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    """One id a row from the filtered distribution: logits [B, V] -> ids [B]."""
    scaled = logits.astype(mx.float32) / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        return _draw_top_k(scaled, sampling, key)
    return mx.random.categorical(keep_min_p(keep_top_p(scaled, sampling.top_p), sampling.min_p), key=key)


def _draw_top_k(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    """The k highest are taken out first, so that what follows sorts k entries and not V."""
    k = int(sampling.top_k)
    ids = mx.argpartition(-logits, kth=k - 1, axis=-1)[..., :k]  # [B, k]
    kept = mx.take_along_axis(logits, ids, axis=-1)
    filtered = keep_min_p(keep_top_p(kept, sampling.top_p), sampling.min_p)
    drawn = mx.random.categorical(filtered, key=key)[..., None]  # [B, 1], a place among the k
    return mx.take_along_axis(ids, drawn, axis=-1)[..., 0]


def keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Keeps the fewest ids whose probabilities reach `top_p`, -inf elsewhere: [B, V] -> [B, V]."""
    if top_p >= 1:
        return logits
    order = mx.argsort(-logits, axis=-1)
    probabilities = mx.take_along_axis(mx.softmax(logits, axis=-1), order, axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities  # the mass ahead of each id
    kept = before < max(top_p, MIN_TOP_P)
    keep = mx.put_along_axis(mx.zeros(logits.shape, mx.bool_), order, kept, axis=-1)
    return mx.where(keep, logits, -math.inf)


def keep_min_p(logits: mx.array, min_p: float) -> mx.array:
    """Keeps ids at least `min_p` times as likely as the likeliest, -inf elsewhere: [B, V] -> [B, V]."""
    if min_p <= 0:
        return logits
    floor = mx.max(logits, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logits >= floor, logits, -math.inf)
