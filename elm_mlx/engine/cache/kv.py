"""The usual key/value cache: one layer, made for a request, written in place."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import mlx.core as mx

from elm_mlx.engine.cache.attention import attention
from elm_mlx.engine.cache.bounded import Bounded
from elm_mlx.engine.cache.causal import CausalMasks
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.errors import CacheFull

RESERVE = 256  # positions that the first buffer has room for


class KVCache(Bounded):
    """Keys and values of one layer, [B, K, room, D] each, of which the first `offset` positions are held.

    The buffers are made at the first write, in its type and batch size, with room for `reserve` positions. When that is
    used up they grow by steps of `grow_by` positions, or double where that is 0, so that a `capacity` that is never
    filled costs nothing. A write is an eager slice update with a host-side offset: nothing else holds the old buffer
    when it is evaluated, so MLX can write in place.
    """

    def __init__(
        self, capacity: int, reserve: int = RESERVE, grow_by: int = 0, masks: CausalMasks | None = None
    ) -> None:
        """`masks` are those that all layers of a cache share."""
        self.capacity, self.reserve, self.grow_by, self.offset = capacity, reserve, grow_by, 0
        self.masks = masks or CausalMasks()
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v [B, K, L, D], and attends causally over all that is held: q [B, H, L, D] -> [B, H, L, D].

        Where there are fewer queries than keys, they are those of the last positions. Raises CacheFull, with the cache
        unchanged, where L positions do not fit.
        """
        keys, values = self.append(k, v)  # [B, K, S, D]
        return attention(q, keys, values, self.masks.of(q, keys))

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends [B, K, L, D] and returns all that is held, [B, K, S, D].

        Raises CacheFull, with the cache unchanged, where L positions do not fit.
        """
        start, end = self.offset, self.offset + keys.shape[2]
        self.refuse_beyond(end - start)
        self.keys = self._with_room(self.keys, end, keys)
        self.values = self._with_room(self.values, end, values)
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        self.offset = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _with_room(self, buffer: mx.array | None, end: int, like: mx.array) -> mx.array:
        """The buffer, or a larger one with the same content, for `end` positions, typed and shaped as `like`."""
        if buffer is None:  # the first write decides type and batch size
            B, K, _, D = like.shape
            return mx.zeros((B, K, spare(self._room(0, end), end), D), like.dtype)
        room = buffer.shape[2]
        return buffer if end <= room else copied(buffer, self.offset, self._room(room, end))

    def _room(self, room: int, end: int) -> int:
        """How many positions the buffers get that have `room` and need `end`."""
        steps = room + self.grow_by * ceil((end - room) / self.grow_by) if self.grow_by else 2 * room
        return min(self.capacity, max(end, self.reserve, steps if room else 0))

    def fork(self, n: int, capacity: int | None = None, reserve: int = 0) -> KVCache:
        """A cache with buffers of its own, which hold the first `n` positions, or all if fewer are held. It has room
        for `reserve` positions, and for at most `capacity` later (None: for those that it holds).

        The copy is not evaluated: do that before the next write to this cache is built, which would otherwise copy its
        buffers, too. Raises CacheFull where `capacity` is below `n`.
        """
        n = min(n, self.offset)
        capacity = n if capacity is None else capacity
        other = KVCache(capacity, reserve, self.grow_by, self.masks)
        if n > capacity:
            raise CacheFull(f"{n} positions are to be copied into a cache of {capacity}. Copy fewer.")
        if n and self.keys is not None and self.values is not None:
            room = other._room(0, n)
            other.keys, other.values, other.offset = copied(self.keys, n, room), copied(self.values, n, room), n
        return other

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions, or all if fewer are held, and returns how many it forgot."""
        n = min(max(n, 0), self.offset)
        self.offset -= n
        return n

    @property
    def can_trim(self) -> int:
        """The most positions that can be trimmed now: all."""
        return self.offset

    def columns(self, positions: int) -> int:
        """How many columns the buffers have at most, where there are so many positions."""
        return positions

    @property
    def room(self) -> int:
        """How many columns the buffers have now, 1 at least."""
        return 1 if self.keys is None else self.keys.shape[2]

    def arrays(self) -> list[mx.array]:
        """The buffers that exist, so that a caller can evaluate them."""
        return [buffer for buffer in (self.keys, self.values) if buffer is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, with the room in them that is not filled yet."""
        return sum(buffer.nbytes for buffer in self.arrays())


def spare(room: int, n: int) -> int:
    """The room of a new buffer whose first write has `n` positions: one more at least.

    MLX makes of a write to a whole array no copy but the written array itself. That would be a part of a larger one
    here, which it would keep in memory, and keep from being written in place.
    """
    return max(room, n + 1)


def copied(buffer: mx.array, n: int, room: int) -> mx.array:
    """A new buffer with the first `n` positions of another: [B, K, any, D] -> [B, K, spare(room, n), D]."""
    B, K, _, D = buffer.shape
    larger = mx.zeros((B, K, spare(room, n), D), buffer.dtype)
    larger[:, :, :n] = buffer[:, :, :n]
    return larger


def make_cache(layers: int, capacity: int, reserve: int = RESERVE, grow_by: int = 0) -> list[KVCache]:
    """An empty cache of at most `capacity` positions for a model of `layers` layers; its buffers grow as KVCache's."""
    masks = CausalMasks()
    return [KVCache(capacity, reserve, grow_by, masks) for _ in range(layers)]


def cache_bytes(cache: Sequence[Layer]) -> int:
    """Bytes of the buffers of all layers, with the room in them that is not filled yet."""
    return sum(layer.nbytes for layer in cache)
