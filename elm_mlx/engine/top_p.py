"""Top-p: the fewest likeliest ids whose probabilities reach a share, found without sorting the vocabulary.

The likeliest ids are those above some threshold. The threshold is found bit by bit: floats that are not negative are in
the order of their bits, read as whole numbers. Probabilities are summed as whole multiples of 2^-30, since such sums
are exact: so they do not depend on the order in which a device adds, and a row has the same ids alone and in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx

from elm_mlx.device.compile import compile_function

UNIT = 2**30  # parts of a probability of 1
BITS = 30  # of the float 1.0: no higher bit is ever set in a probability
SORTED_UP_TO = 16384  # entries: fewer are sorted sooner than searched (benchmarks/top_p.py)


def keep_top_p(logits: mx.array, top_p: float, compiled: bool = False) -> mx.array:
    """Keeps the fewest likeliest ids whose probabilities reach `top_p`, and ids that are just as likely as the least of
    them; others get minus infinity: logits [B, V] -> [B, V]. With `compiled` the search runs in compiled rounds."""
    if top_p >= 1:
        return logits
    if logits.shape[-1] <= SORTED_UP_TO:
        return by_sorting(logits, top_p)
    return SEARCH(logits, mx.array(top_p, mx.float32)) if compiled else by_searching(logits, top_p)


def by_sorting(logits: mx.array, top_p: float | mx.array) -> mx.array:
    """Keeps what `keep_top_p` keeps. All is sorted, and summed in that order."""
    p = mx.softmax(logits, axis=-1)
    likeliest_first = -mx.sort(-p, axis=-1)
    units = in_units(likeliest_first)
    before = mx.cumsum(units, axis=-1) - units  # of all that are before it in this order
    kept = before < wanted(units, top_p)
    threshold = mx.min(mx.where(kept, likeliest_first, math.inf), axis=-1, keepdims=True)
    return mx.where(p >= threshold, logits, -math.inf)


def by_searching(logits: mx.array, top_p: float | mx.array, bits: int = 1) -> mx.array:
    """Keeps what `keep_top_p` keeps. The highest threshold is found that enough lies above, `bits` bits at a time."""
    p = mx.softmax(logits, axis=-1)
    units, order = in_units(p)[:, None], p.view(mx.int32)[:, None]  # [B, 1, V]
    enough = wanted(units, top_p)  # [B, 1, 1]
    threshold = mx.zeros(enough.shape, mx.int32)
    steps = mx.array([[step] for step in range(1, 2**bits)], mx.int32)
    for low in reversed(range(0, BITS, bits)):
        tried = threshold + steps * 2**low  # [B, 2^bits - 1, 1], ascending: the first ones have enough above them
        above = mx.sum(units & (tried - 1 - order >> 31), axis=-1, keepdims=True)  # the shift gives all bits, or none
        for one in mx.split(above, 2**bits - 1, axis=-2):  # no sum over this axis, which would be a kernel more
            threshold = threshold + 2**low * (one >= enough).astype(mx.int32)
    return mx.where(order >= threshold, logits[:, None], -math.inf)[:, 0]


def in_units(p: mx.array) -> mx.array:
    """Probabilities as whole numbers of units; what is under half a unit (5e-10) counts as nothing."""
    return mx.round(p * UNIT).astype(mx.int32)


def wanted(units: mx.array, top_p: float | mx.array) -> mx.array:
    """How many units `top_p` of all units [..., V] are, at least one: [..., 1]."""
    total = mx.sum(units, axis=-1, keepdims=True)
    return mx.maximum((total.astype(mx.float32) * top_p).astype(mx.int32), 1)


# Two bits a round: half as many rounds as with one bit, which on a GPU cost more than what they add up.
SEARCH: Callable[[mx.array, mx.array], mx.array] = compile_function(partial(by_searching, bits=2))
