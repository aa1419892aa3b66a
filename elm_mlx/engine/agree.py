"""What every machine must have alike that answers with others: the ids that one of them has drawn."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

Agree = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
"""Ids [B] that were drawn here, and the peaks [B] of their logits, to those that count: nothing is evaluated."""


def alone(ids: mx.array, peaks: mx.array) -> tuple[mx.array, mx.array]:
    """Takes what was drawn here: there is one machine."""
    return ids, peaks
