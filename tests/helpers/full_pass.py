"""The plain twin of reading and decoding: all ids in one pass, without a cache or chunks."""

from __future__ import annotations

import mlx.core as mx

import elm_mlx

CLOSE = 2e-5  # of the largest value


def full_pass(lm: elm_mlx.LanguageModel, ids: list[int]) -> mx.array:
    """The logits (L, V) after every id."""
    return lm.model(mx.array([ids]))[0]


def relative(ours: mx.array, theirs: mx.array) -> float:
    """The largest difference as a share of the largest value."""
    return float(mx.abs(ours - theirs).max() / mx.abs(theirs).max())
