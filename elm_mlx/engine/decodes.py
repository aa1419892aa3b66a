"""A model as the engine sees it: ids and a cache in, states and logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.engine.cache.rows import Attends


class Decodes(Protocol):
    """What the engine needs of a model."""

    def hidden(self, ids: mx.array, cache: Sequence[Attends] | None) -> mx.array:
        """ids [B, L] -> states [B, L, E]; keys and values go into the cache."""
        ...

    def last_hidden(self, ids: mx.array, cache: Sequence[Attends]) -> mx.array:
        """ids [B, L] -> the state of the last position alone, [B, E]; keys and values of all ids go into the cache."""
        ...

    def few_hidden(self, ids: mx.array, cache: Sequence[Attends]) -> mx.array:
        """A few ids [B, L], L above 1 -> states [B, L, E]; for the few lengths that speculation uses."""
        ...

    def head(self, states: mx.array) -> mx.array:
        """States [..., E] -> logits [..., V]."""
        ...
