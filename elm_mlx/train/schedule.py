"""The learning rate of each step: a pure function, so a resumed training has the same ones."""

from __future__ import annotations

import math

from elm_mlx.train.names import CONSTANT, LINEAR


def learning_rate(kind: str, highest: float, step: int, steps: int, warmup: int = 0) -> float:
    """The rate of step number `step` (from 0) of `steps`: it grows over `warmup` steps to `highest`, and then stays
    ("constant"), or falls to 0 after the last step in a line ("linear") or half a cosine ("cosine").
    """
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    if kind == CONSTANT:
        return highest
    done = (step - warmup) / max(1, steps - warmup)
    return highest * (1 - done if kind == LINEAR else (1 + math.cos(math.pi * done)) / 2)
