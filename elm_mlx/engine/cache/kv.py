"""The usual key/value cache: one layer, made for a request, written in place."""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.errors import CacheFull

RESERVE = 256  # positions that the first buffer has room for


class KVCache:
    """Keys and values of one layer, [B, K, room, D] each, of which the first `offset` positions are held.

    The buffers are made at the first write, in its type and batch size, with room for `reserve` positions; they
    double when that is used up, so that a `capacity` nobody fills costs nothing. A write is an eager slice update
    with a host-side offset: nothing else holds the old buffer when it is evaluated, so MLX can write in place.
    """

    def __init__(self, capacity: int, reserve: int = RESERVE) -> None:
        self.capacity, self.reserve, self.offset = capacity, reserve, 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v [B, K, L, D], and attends causally over all that is held: q [B, H, L, D] -> [B, H, L, D].

        Fewer queries than keys are those of the last positions. Raises CacheFull, with the cache unchanged, where L
        positions do not fit.
        """
        keys, values = self.append(k, v)  # [B, K, S, D]
        mask = "causal" if q.shape[2] > 1 else None
        return mx.fast.scaled_dot_product_attention(q, keys, values, scale=q.shape[3] ** -0.5, mask=mask)

    def append(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends [B, K, L, D] and returns all that is held, [B, K, S, D].

        Raises CacheFull, with the cache unchanged, where L positions do not fit.
        """
        start, end = self.offset, self.offset + keys.shape[2]
        if end > self.capacity:
            raise CacheFull(f"The cache holds {start} of {self.capacity} positions; {end - start} more do not fit. "
                            "Make it larger, or trim it.")  # fmt: skip
        self.keys = self._with_room(self.keys, end, keys)
        self.values = self._with_room(self.values, end, values)
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        self.offset = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _with_room(self, buffer: mx.array | None, end: int, like: mx.array) -> mx.array:
        """The buffer, or a larger one with the same content, for `end` positions of the form of `like`."""
        room = 0 if buffer is None else buffer.shape[2]
        if buffer is not None and end <= room:
            return buffer
        like = like if buffer is None else buffer  # the first write decides type and batch size
        B, K, _, D = like.shape
        larger = mx.zeros((B, K, min(self.capacity, max(end, 2 * room, self.reserve)), D), like.dtype)
        if buffer is not None:
            larger[:, :, : self.offset] = buffer[:, :, : self.offset]
        return larger

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions and returns how many there were to forget."""
        n = min(max(n, 0), self.offset)
        self.offset -= n
        return n

    def arrays(self) -> list[mx.array]:
        """The buffers that exist, so that a caller can evaluate them."""
        return [buffer for buffer in (self.keys, self.values) if buffer is not None]


def make_cache(layers: int, capacity: int, reserve: int = RESERVE) -> list[KVCache]:
    """An empty cache of at most `capacity` positions for a model of `layers` layers."""
    return [KVCache(capacity, reserve) for _ in range(layers)]
