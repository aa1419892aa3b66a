"""A decode step in compiled stretches, from one attention to the next.

Attention stays outside: a compiled write would copy the whole cache for every token, since the step before still holds
the cache when the next step is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx

from elm_mlx.device.compile import compile_function
from elm_mlx.models.attention import Cache, CacheLayer
from elm_mlx.models.blocks import Block
from elm_mlx.models.rope import Position


class CompiledStep:
    """The states after one new token of each row, or after a few of one row; Python makes one call for all that lies
    between two attentions. `embed` gives the states of ids, [B] -> [B, E]. MLX traces the stretches once for each
    number of tokens, so only few numbers should be used. What `which` holds is an input of each stretch."""

    def __init__(
        self,
        embed: Callable[[mx.array], mx.array],
        blocks: Sequence[Block],
        norm: Callable[[mx.array], mx.array],
        which: list[mx.array] | None = None,
    ) -> None:
        def first(ids: mx.array, position: Position) -> tuple[mx.array, ...]:
            h = embed(ids[:, 0])  # [B, E], without the axis L, which every product would have to reshape away
            return h, *blocks[0].before(h, position)

        def between(done: Block, following: Block) -> Callable[..., tuple[mx.array, ...]]:
            def stretch(h: mx.array, mixed: mx.array, position: Position) -> tuple[mx.array, ...]:
                h = done.after(h, mixed)
                return h, *following.before(h, position)

            return compile_function(stretch, inputs=which)

        self.prepare = blocks[0].prepare
        self.first = compile_function(first, inputs=which)
        self.stretches = [between(*pair) for pair in pairwise(blocks)]
        self.last = compile_function(lambda h, mixed: norm(blocks[-1].after(h, mixed)), inputs=which)

    def __call__(self, ids: mx.array, cache: Cache) -> mx.array:
        """ids [B, 1] -> normalised states [B, E]; ids [1, L] -> [L, E]."""
        if (count := ids.shape[1]) > 1:
            positions = cache[0].offset + mx.arange(count)
            ids, cache = ids.swapaxes(0, 1), [OfOneRow(layer, positions) for layer in cache]
        position = self.prepare(cache[0].offset, 1)
        position = mx.array(position) if isinstance(position, int) else position  # each number would be traced anew
        h, q, k, v = self.first(ids, position)
        for layer, stretch in zip(cache[:-1], self.stretches, strict=True):
            h, q, k, v = stretch(h, layer.attend(q, k, v), position)
        states: mx.array = self.last(h, cache[-1].attend(q, k, v))
        return states


class OfOneRow:
    """The cache layer of one row, of which some new positions come as rows of one position each, so that their states
    need no axis more than those of several rows."""

    def __init__(self, layer: CacheLayer, positions: mx.array) -> None:
        self.layer, self.offset = layer, positions

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Appends k and v [L, K, 1, D], and attends causally: q [L, H, 1, D] -> [L, H, 1, D]."""
        return self.layer.attend(q.swapaxes(0, 2), k.swapaxes(0, 2), v.swapaxes(0, 2)).swapaxes(0, 2)
