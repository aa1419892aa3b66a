"""Applies masks to logits on the device: an id that a mask forbids gets minus infinity, and is never drawn."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from elm_mlx.device.compile import compile_function
from elm_mlx.engine.guide import WORD


def forbid(logits: mx.array, words: mx.array, places: mx.array) -> mx.array:
    """Logits [B, V] -> logits [B, V], minus infinity for each id whose bit is not set in the row's words.

    `words` [B, ceil(V / 32)] are masks in uint32, bit i % 32 of word i // 32 for id i; `places` [32] are the numbers
    from 0 to 31.
    """
    rows, vocabulary = logits.shape
    allowed = ((words[:, :, None] >> places) & 1).astype(mx.bool_)  # [B, ceil(V / 32), 32]
    if vocabulary % WORD:
        return mx.where(allowed.reshape(rows, -1)[:, :vocabulary], logits, -math.inf)
    by_words = logits.reshape(allowed.shape)  # a view: so all of this is one kernel
    return mx.where(allowed, by_words, -math.inf).reshape(rows, vocabulary)


COMPILED = compile_function(forbid)
PLACES = np.arange(WORD, dtype=np.uint32)  # an mx.array would belong to the thread that imports this


def restrict(logits: mx.array, words: np.ndarray, compiled: bool) -> mx.array:
    """Logits [B, V] -> logits [B, V], where ids that the masks, uint32 [B, ceil(V / 32)], forbid have minus infinity.
    With `compiled` that is one kernel where V is a multiple of 32."""
    change = COMPILED if compiled else forbid
    restricted: mx.array = change(logits, mx.array(words), mx.array(PLACES))
    return restricted
