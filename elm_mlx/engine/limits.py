"""How much an engine may take on."""

from __future__ import annotations

from dataclasses import dataclass

from elm_mlx.engine.budget import Budget

ROWS = 8  # sequences that decode together; chosen, not measured on a Mac
QUEUE = 1024  # requests that may wait


@dataclass(frozen=True)
class Limits:
    """`context`: the most positions of a sequence. `token_bytes`: the bytes that one position takes in the caches of
    all layers. `budget`: what all caches of the process may take. At most `rows` sequences are answered together, and
    at most `queue` requests wait for a place. With `reuse` keys and values of ended requests are kept for later ones
    that begin with the same ids."""

    context: int
    token_bytes: int
    budget: Budget
    rows: int = ROWS
    queue: int = QUEUE
    reuse: bool = True
