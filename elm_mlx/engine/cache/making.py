"""Empty caches for a model: of the engine's kinds, or what a model brings that keeps its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.cache.kind_cache import make_kind_cache
from elm_mlx.engine.cache.kv import RESERVE, make_cache
from elm_mlx.engine.cache.layer import Layer


@runtime_checkable
class KeepsOwn(Protocol):
    """A model whose caches are of its own making (models.guest.Guest)."""

    def make_cache(self, capacity: int) -> Sequence[Layer]:
        """Empty caches of all layers, for at most so many positions."""
        ...


def new_cache(
    model: object, layers: int, capacity: int, reserve: int = RESERVE, grow_by: int = 0, *, kind: CacheKind = PLAIN
) -> list[Layer]:
    """Caches that hold nothing yet, for a model of so many layers and at most `capacity` positions; their buffers grow
    as KVCache's. A model that keeps its own caches has no kinds of them."""
    if isinstance(model, KeepsOwn):
        return [*model.make_cache(capacity)]
    if not kind.is_plain:
        return [*make_kind_cache(kind, layers, capacity, reserve, grow_by)]
    return [*make_cache(layers, capacity, reserve, grow_by)]
