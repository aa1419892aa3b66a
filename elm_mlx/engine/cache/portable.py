"""A cache as plain arrays, to be kept outside of an engine, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mlx.core as mx

from elm_mlx.engine.cache.causal import CausalMasks
from elm_mlx.engine.cache.forms import form_of
from elm_mlx.engine.cache.kind import CacheKind, group_size, padded
from elm_mlx.engine.cache.kind_cache import KindCache
from elm_mlx.engine.cache.kv import KVCache, copied
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.ring import ring_of

FLOATS = ("keys", "values")
QUANTIZED = tuple(f"{what}.{part}" for what in FLOATS for part in ("weight", "scales", "biases"))


def part_names(kind: CacheKind) -> tuple[str, ...]:
    """What the arrays of a layer are called, in their order."""
    return FLOATS if kind.key_bits is None else QUANTIZED


def part_widths(kind: CacheKind, head_dim: int) -> list[int]:
    """How many numbers each array of a layer has for one head and position."""
    if kind.key_bits is None or kind.value_bits is None:
        return [head_dim, head_dim]
    width = padded(head_dim)
    groups = width // group_size(width)
    return [n for bits in (kind.key_bits, kind.value_bits) for n in (width * bits // 32, groups, groups)]


def filled_columns(kind: CacheKind, positions: int, oldest: int) -> int:
    """How many columns are filled by so many positions, of which `oldest` is the first that is still held, the sinks
    aside."""
    if kind.window is None or oldest <= kind.sinks:
        return positions
    return kind.sinks + kind.window + kind.margin


def can_be(kind: CacheKind, positions: int, oldest: int) -> bool:
    """Whether a cache of this kind can hold so many positions, from `oldest` on, with all that a next query reads."""
    if kind.window is None:
        return oldest == 0
    if oldest <= kind.sinks:
        return positions <= kind.sinks + kind.window + kind.margin
    return positions - kind.window - kind.margin <= oldest <= positions - kind.window + 1


def oldest_of(layer: Layer) -> int:
    """The first position, the sinks aside, that a layer still holds."""
    return layer.oldest if isinstance(layer, KindCache) else 0


def export(layer: Layer, kind: CacheKind) -> list[mx.array]:
    """The filled columns of a layer's buffers, [B, K, S, any] each, evaluated."""
    filled = filled_columns(kind, layer.offset, oldest_of(layer))
    arrays = [mx.contiguous(buffer[:, :, :filled]) for buffer in layer.arrays()]
    mx.eval(arrays)
    return arrays


def restore(
    kind: CacheKind, layers: Iterable[Sequence[mx.array]], positions: int, oldest: int, grow_by: int = 0
) -> list[Layer]:
    """The cache that `export` has taken apart layer by layer, with buffers of its own, evaluated; it holds `positions`
    of which `oldest` is the first that is still there. A layer is asked for when the one before it is done. Copies of
    it grow by `grow_by` positions, or double where that is 0."""
    ring, form, masks = ring_of(kind), form_of(kind), CausalMasks()
    made: list[Layer] = []
    for arrays in layers:
        if kind.is_plain:
            made.append(restored(KVCache(positions, grow_by=grow_by, masks=masks), arrays, positions))
        else:
            layer = KindCache(ring, form, positions, grow_by=grow_by)
            layer.oldest = oldest
            made.append(restored(layer, arrays, positions))
    return made


def restored(layer: KVCache | KindCache, arrays: Sequence[mx.array], positions: int) -> Layer:
    """An empty layer, filled with these columns."""
    buffers = [copied(array, array.shape[2], array.shape[2]) for array in arrays]
    mx.eval(buffers)
    layer.offset = positions
    if isinstance(layer, KVCache):
        layer.keys, layer.values = buffers
    else:
        layer.buffers = buffers
    return layer
