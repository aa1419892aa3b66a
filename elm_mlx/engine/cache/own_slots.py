"""Slots for rows whose caches a model keeps itself, as a guest's: what these hold of a layer lies in Slots' buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import mlx.core as mx

from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.cache.slots import SlotLayer, Slots


@runtime_checkable
class KeepsParts(Protocol):
    """A cache of all layers, as one layer, whose parts hold the keys and values of one layer each."""

    def parts(self) -> list[Any]:
        """The parts: `keys` and `values` [1, K, R, D] of which `offset` positions are held."""
        ...

    def empty(self) -> Self:
        """One like it that holds nothing."""
        ...

    def of_parts(self, parts: Sequence[KVCache], length: int) -> Self:
        """One like it with the keys and values of such parts, which hold `length` positions."""
        ...


class OwnLayer:
    """One layer of slots, as the model's own classes use a cache: they write, and attend by themselves."""

    def __init__(self, layer: SlotLayer) -> None:
        self.layer = layer

    @property
    def offset(self) -> int | mx.array:
        """How many positions each row holds: [B], or a number where there is one row."""
        return self.layer.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Writes the new keys and values [B, K, 1, D], and gives all that this step reads, [B, K, S, D] each."""
        return self.layer.put(keys, values)

    def make_mask(self, count: int, *args: object, **how: object) -> mx.array | None:
        """Which columns each row may read, [B, 1, 1, S]; None for all of them."""
        return self.layer.view.mask(1, 1, mx.bool_)


class OwnRows:
    """The caches of all layers of some rows, as the one layer that the engine sees."""

    def __init__(self, layers: Sequence[SlotLayer]) -> None:
        self.caches = [OwnLayer(layer) for layer in layers]

    @property
    def offset(self) -> int | mx.array:
        """How many positions each row holds."""
        return self.caches[0].offset

    def before(self, count: int) -> None:
        """Nothing is to do before a step: the slots have made room for it."""

    def after(self, count: int) -> None:
        """Nothing is left to do: the slots count positions."""

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Is never asked: the model's own classes attend by themselves."""
        raise TypeError("These caches belong to the model's own classes, which attend by themselves.")


class OwnSlots(Slots):
    """Slots of rows whose caches are like `like`."""

    def __init__(self, like: KeepsParts, rows: int = 2, grow_by: int | None = None) -> None:
        super().__init__(len(like.parts()), rows, grow_by)
        self._like = like.empty()

    @property
    def layers(self) -> Sequence[Any]:
        """All layers, as one."""
        return [OwnRows(self.buffers)]

    def join(self, cache: Sequence[Any], slots: int = 0) -> int:
        """Moves a row into a slot, as Slots do."""
        return super().join(cache[0].parts(), slots)

    def copy_out(self, slot: int, length: int) -> list[Any]:
        """The first `length` positions of a row as a cache of its own, evaluated."""
        return [self._like.of_parts(super().copy_out(slot, length), length)]


def new_slots(cache: Sequence[object], rows: int, grow_by: int) -> Slots:
    """Slots for rows whose caches of all layers are like `cache`."""
    first = cache[0] if cache else None
    return OwnSlots(first, rows, grow_by) if isinstance(first, KeepsParts) else Slots(len(cache), rows, grow_by)
