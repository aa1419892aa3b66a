"""The cache of one layer in every kind but the plain one: a ring, quantized, or both."""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.engine.cache.bounded import Bounded
from elm_mlx.engine.cache.forms import Form, form_of
from elm_mlx.engine.cache.kind import CacheKind
from elm_mlx.engine.cache.kv import RESERVE, copied, spare
from elm_mlx.engine.cache.ring import Ring, ring_of
from elm_mlx.errors import CacheFull, CannotTrim


class KindCache(Bounded):
    """Keys and values of one layer: `ring` says where positions lie, `form` what is stored of them.

    Buffers are made at the first write, with room for `reserve` positions, and grow as those of KVCache, up to the
    ring's columns. Positions are counted on beyond a window. A write is an eager slice update in place, two where it
    passes the ring's last column.
    """

    def __init__(self, ring: Ring, form: Form, capacity: int, reserve: int = RESERVE, grow_by: int = 0) -> None:
        self.ring, self.form = ring, form
        self.capacity, self.reserve, self.grow_by = capacity, reserve, grow_by
        self.offset = 0
        self.oldest = 0  # the first position, the sinks aside, that is still held
        self.buffers: list[mx.array] = []  # [B, K, room, any] each

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v [B, K, L, D], and attends causally, within the window if there is one: q [B, H, L, D] ->
        [B, H, L, D].

        Where there are fewer queries than keys, they are those of the last positions. More positions than the ring can
        take before they are read go in blocks, so the result is that of one position after the other. Raises
        CacheFull, with the cache unchanged, where L positions do not fit.
        """
        L, unasked = k.shape[2], k.shape[2] - q.shape[2]
        self.refuse_beyond(L)
        mixed, done = [], 0
        while done < L:
            end = min(L, done + self.ring.block(self.offset))
            self._write(k[:, :, done:end], v[:, :, done:end])
            if (first := max(done, unasked)) < end:
                mixed.append(self._read(q[:, :, first - unasked : end - unasked]))
            done = end
        return mixed[0] if len(mixed) == 1 else mx.concatenate(mixed, axis=2)

    def _write(self, k: mx.array, v: mx.array) -> None:
        """Appends one block of positions, [B, K, L, D] each."""
        parts, end = self.form.encode(k, v), self.offset + k.shape[2]
        self._make_room(min(end, self.ring.columns), parts)
        for positions, columns in self.ring.pieces(self.offset, end):
            for buffer, part in zip(self.buffers, parts, strict=True):
                buffer[:, :, columns] = part[:, :, positions]
        self.offset, self.oldest = end, max(self.oldest, end - self.ring.size)

    def _read(self, q: mx.array) -> mx.array:
        """What the queries of the last positions read, [B, H, L, D] -> [B, H, L, D]."""
        columns, mask = self.ring.view(self.offset, q.shape[2])
        return self.form.attend(q, [buffer[:, :, columns] for buffer in self.buffers], mask)

    def _make_room(self, columns: int, like: list[mx.array]) -> None:
        """Makes or enlarges the buffers, for so many columns, typed and shaped as `like`."""
        if not self.buffers:
            room = spare(self._room(0, columns), columns)
            self.buffers = [mx.zeros((*part.shape[:2], room, part.shape[3]), part.dtype) for part in like]
        elif columns > (room := self.buffers[0].shape[2]):
            self.buffers = [copied(buffer, room, self._room(room, columns)) for buffer in self.buffers]

    def _room(self, room: int, columns: int) -> int:
        """How many columns the buffers get that have `room` and need `columns`."""
        steps = room + self.grow_by * -(-(columns - room) // self.grow_by) if self.grow_by else 2 * room
        return min(self.columns(self.capacity), max(columns, self.reserve, steps if room else 0))

    @property
    def can_trim(self) -> int:
        """The most positions that can be trimmed now: of those that a window has forgotten, what lies in the margin is
        still there."""
        if self.oldest <= self.ring.sinks:
            return self.offset
        return max(0, self.offset - self.oldest - self.ring.window + 1)

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions, or all if fewer are held, and returns how many it forgot. Raises CannotTrim,
        with the cache unchanged, for more than `can_trim`: what a window then shows again was overwritten."""
        n = min(max(n, 0), self.offset)
        if n > self.can_trim:
            raise CannotTrim(f"{n} positions are to be trimmed, and this cache of a window can give up {self.can_trim} "
                             "at most. Read the text again.")  # fmt: skip
        self.offset -= n
        return n

    def fork(self, n: int, capacity: int | None = None, reserve: int = 0) -> KindCache:
        """A cache with buffers of its own, which hold the first `n` positions, or all if fewer are held; otherwise as
        KVCache.fork. Raises CannotTrim where a window's later positions have overwritten what they show."""
        n = min(n, self.offset)
        capacity = n if capacity is None else capacity
        if n > capacity:
            raise CacheFull(f"{n} positions are to be copied into a cache of {capacity}. Copy fewer.")
        other = KindCache(self.ring, self.form, capacity, reserve, self.grow_by)
        if n and self.buffers:
            used = n if self.oldest <= self.ring.sinks else min(self.buffers[0].shape[2], self.ring.columns)
            other.offset, other.oldest = self.offset, self.oldest
            other.trim(self.offset - n)
            other.buffers = [copied(buffer, used, other._room(0, used)) for buffer in self.buffers]
        return other

    def columns(self, positions: int) -> int:
        """How many columns the buffers have at most, where there are so many positions."""
        return min(positions, self.ring.columns)

    @property
    def room(self) -> int:
        """How many columns the buffers have now, 1 at least."""
        return self.buffers[0].shape[2] if self.buffers else 1

    def arrays(self) -> list[mx.array]:
        """The buffers that exist, so that a caller can evaluate them."""
        return list(self.buffers)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, with the room in them that is not filled yet."""
        return sum(buffer.nbytes for buffer in self.buffers)


def make_kind_cache(
    kind: CacheKind, layers: int, capacity: int, reserve: int = RESERVE, grow_by: int = 0
) -> list[KindCache]:
    """An empty cache of this kind, of at most `capacity` positions, for a model of `layers` layers."""
    ring, form = ring_of(kind), form_of(kind)
    return [KindCache(ring, form, capacity, reserve, grow_by) for _ in range(layers)]
