"""A model as the engine sees it: ids and a cache in, states and logits out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from elm_mlx.engine.cache.kv import KVCache


class Decodes(Protocol):
    """What a model must do to be run by the engine."""

    def hidden(self, ids: mx.array, cache: Sequence[KVCache] | None) -> mx.array:
        """ids [B, L] -> states [B, L, E]; keys and values go into the cache."""
        ...

    def last_hidden(self, ids: mx.array, cache: Sequence[KVCache]) -> mx.array:
        """ids [B, L] -> the state of the last position alone, [B, E]; keys and values of all go into the cache."""
        ...

    def head(self, states: mx.array) -> mx.array:
        """States [..., E] -> logits [..., V]."""
        ...
