"""A guest: a model of mlx-lm's classes, behind the four methods that the engine asks for. It knows no files.

What mlx-lm's classes give is logits, and some change them after the head's product, so a guest's states are logits and
its head gives them back as they are. That costs nothing: MLX computes what is read, and of a prompt that are caches.
Of the last chunk the network's own head is given the last state alone, where that works (guest_head).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mlx.core as mx

from elm_mlx.config.guest import GuestConfig
from elm_mlx.device.compile import uncompiled
from elm_mlx.models.guest_cache import GuestCache, Network, Sizes, measured
from elm_mlx.models.guest_head import last_head

FEW = 3  # ids for each layer: their last layer costs at most what three ids of a prompt do, less than a step of its own
GuestLayers = Sequence[Any]  # one GuestCache, which stands for all layers


class Guest:
    """Token ids in, logits out, computed by mlx-lm's classes; `dtype` is that of its embedding."""

    def __init__(self, config: GuestConfig, network: Network, dtype: mx.Dtype) -> None:
        self.config, self.network, self.dtype, self.compiled = config, network, dtype, True
        self._sizes: Sizes | None = None
        self._head = last_head(network.module)

    def set_compiled(self, compiled: bool) -> None:
        """Sets whether the functions that mlx-lm compiles are compiled."""
        self.compiled = compiled

    @property
    def sizes(self) -> Sizes:
        """What its caches take, measured once from the shapes of two steps that are not computed."""
        if self._sizes is None:
            with self._as_compiled():
                self._sizes = measured(self.network)
        return self._sizes

    def make_cache(self, capacity: int) -> list[GuestCache]:
        """Empty caches of all layers for so many positions, as the one layer that the engine sees."""
        family = self.config.guest
        return [GuestCache(self.network.make_caches(), capacity, family.abilities.trims, self.sizes,
                           steps_back=family.tested)]  # fmt: skip

    def hidden(self, ids: mx.array, cache: GuestLayers | None = None) -> mx.array:
        """ids [B, L] -> logits [B, L, V]; what is held of them goes into the cache."""
        with self._as_compiled():
            if not cache:
                return self.network.module(ids)
            if split := getattr(cache[0], "split", None):  # rows of several parts, computed a part at a time
                return mx.concatenate([self._computed(ids[rows], part) for rows, part in split()])
            return self._computed(ids, cache[0])

    def _computed(self, ids: mx.array, layer: Any) -> mx.array:
        """The logits after all ids, of rows whose caches are one."""
        layer.before(ids.shape[1])
        logits: mx.array = self.network.module(ids, cache=layer.caches)
        layer.after(ids.shape[1])
        return logits

    def last_hidden(self, ids: mx.array, cache: GuestLayers) -> mx.array:
        """ids [B, L] -> the logits after the last one, [B, V]; no others are computed.

        Few ids are read in one pass. Of more, all but the last are read before it, as mlx-lm's own loop does: then MLX
        leaves out all of their last layer but keys and values, which outweighs a second pass over the weights.
        """
        if ids.shape[1] == 1:
            return self.hidden(ids, cache)[:, -1]
        if self._head is not None and ids.shape[1] <= FEW * self.config.num_layers:
            with self._head.last():
                return self.hidden(ids, cache)[:, -1]
        self.hidden(ids[:, :-1], cache)
        return self.hidden(ids[:, -1:], cache)[:, -1]

    def few_hidden(self, ids: mx.array, cache: GuestLayers) -> mx.array:
        """A few ids [B, L] -> logits [B, L, V]."""
        return self.hidden(ids, cache)

    def head(self, states: mx.array) -> mx.array:
        """Logits, as they are."""
        return states

    def __call__(self, ids: mx.array, cache: GuestLayers | None = None) -> mx.array:
        """ids [B, L] -> logits [B, L, V]."""
        return self.hidden(ids, cache)

    def _as_compiled(self) -> AbstractContextManager:
        return nullcontext() if self.compiled else uncompiled()
