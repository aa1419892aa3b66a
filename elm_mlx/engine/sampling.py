"""From logits to the next id: greedy, or temperature, then top-k, then top-p, then min-p, then a draw.

The order is that of transformers' generation, where a model's generation_config comes from.
"""

from __future__ import annotations

import math
import secrets

import mlx.core as mx

from elm_mlx.arguments import whole_number
from elm_mlx.config.generation import Sampling

MIN_TOP_P = 1e-6  # smaller values become 0 in float32 and would keep no id


class Sampler:
    """Draws the ids of one request with a random key of its own, so that requests never change each other's ids.

    `seed` is any whole number, 0 included; None takes a seed from the operating system.
    """

    def __init__(self, sampling: Sampling, seed: int | None = None) -> None:
        self.sampling = sampling
        self.key = mx.random.key(secrets.randbits(64) if seed is None else whole_number("seed", seed) % 2**64)

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits [1, V] -> an id [1]."""
        if self.sampling.is_greedy:
            return mx.argmax(logits, axis=-1)
        self.key, now = mx.random.split(self.key)
        return draw(logits, self.sampling, now[None])


def draw(logits: mx.array, sampling: Sampling, keys: mx.array) -> mx.array:
    """Draws one id for each row from its filtered distribution, with the row's own key: logits [B, V] and keys [B, 2]
    -> ids [B]. A row's id depends on its logits and its key alone, not on the other rows."""
    scaled = logits.astype(mx.float32) / sampling.temperature
    if 0 < sampling.top_k < scaled.shape[-1]:
        return _draw_top_k(scaled, sampling, keys)
    return draw_each(keep_min_p(keep_top_p(scaled, sampling.top_p), sampling.min_p), keys)


def _draw_top_k(logits: mx.array, sampling: Sampling, keys: mx.array) -> mx.array:
    """Draws among the k highest logits. They are taken out first, so that the later filters sort k entries, not V."""
    k = int(sampling.top_k)
    # Sorted, since the order of the k would change with the last bit of a logit, and with it who gets which luck.
    ids = mx.sort(mx.argpartition(-logits, kth=k - 1, axis=-1)[..., :k], axis=-1)  # [B, k]
    kept = mx.take_along_axis(logits, ids, axis=-1)
    filtered = keep_min_p(keep_top_p(kept, sampling.top_p), sampling.min_p)
    drawn = draw_each(filtered, keys)[..., None]  # [B, 1], an index among the k
    return mx.take_along_axis(ids, drawn, axis=-1)[..., 0]


def draw_each(logits: mx.array, keys: mx.array) -> mx.array:
    """Draws an index for each row, with the row's own key: logits [B, V] and keys [B, 2] -> [B]."""
    if len(keys) == 1:  # what the call below would draw, without its cost
        return mx.random.categorical(logits[0], key=keys[0])[None]
    return mx.vmap(lambda row, key: mx.random.categorical(row, key=key))(logits, keys)


def keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Keeps the fewest likeliest ids whose probabilities reach `top_p`; others get -inf: logits [B, V] -> [B, V]."""
    if top_p >= 1:
        return logits
    order = mx.argsort(-logits, axis=-1)
    probabilities = mx.take_along_axis(mx.softmax(logits, axis=-1), order, axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities  # the probability of all likelier ids
    kept = before < max(top_p, MIN_TOP_P)
    keep = mx.put_along_axis(mx.zeros(logits.shape, mx.bool_), order, kept, axis=-1)
    return mx.where(keep, logits, -math.inf)


def keep_min_p(logits: mx.array, min_p: float) -> mx.array:
    """Keeps ids at least `min_p` times as likely as the likeliest; others get -inf: logits [B, V] -> [B, V]."""
    if min_p <= 0:
        return logits
    floor = mx.max(logits, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logits >= floor, logits, -math.inf)
