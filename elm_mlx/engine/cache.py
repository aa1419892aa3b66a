"""The key/value cache: one layer, preallocated for a request, written in place."""

from __future__ import annotations

import mlx.core as mx

from elm_mlx.errors import CacheFull


class KVCache:
    """Keys and values of one layer, [B, K, capacity, D] each, of which the first `offset` positions are held.

    The buffers are made at the first write, in its type and batch size. A write is an eager slice update with a
    host-side offset: nothing else holds the old buffer when it is evaluated, so MLX writes in place.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.offset = capacity, 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends [B, K, L, D] and returns all that is held, [B, K, S, D].

        Raises CacheFull, with the cache unchanged, where L positions do not fit.
        """
        B, K, L, D = keys.shape
        start, end = self.offset, self.offset + L
        if end > self.capacity:
            raise CacheFull(f"The cache holds {start} of {self.capacity} positions; {L} more do not fit. "
                            "Make it larger, or trim it.")  # fmt: skip
        if self.keys is None or self.values is None:
            self.keys = mx.zeros((B, K, self.capacity, D), keys.dtype)
            self.values = mx.zeros((B, K, self.capacity, values.shape[-1]), values.dtype)
        self.keys[..., start:end, :] = keys
        self.values[..., start:end, :] = values
        self.offset = end
        return self.keys[..., :end, :], self.values[..., :end, :]

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions and returns how many there were to forget."""
        n = min(max(n, 0), self.offset)
        self.offset -= n
        return n

    def arrays(self) -> list[mx.array]:
        """The buffers, for whoever evaluates them."""
        return [buffer for buffer in (self.keys, self.values) if buffer is not None]


def make_cache(layers: int, capacity: int) -> list[KVCache]:
    """An empty cache of `capacity` positions for a model of `layers` layers."""
    return [KVCache(capacity) for _ in range(layers)]
