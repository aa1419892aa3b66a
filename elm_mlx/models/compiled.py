"""A decode step in compiled stretches, from one attention to the next.

Attention stays outside: a compiled write would copy the whole cache for every token, since the step before still holds
the cache when the next step is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx

from elm_mlx.device.compile import compile_function
from elm_mlx.models.attention import Cache
from elm_mlx.models.blocks import Block
from elm_mlx.models.matrices import Matrix


class CompiledStep:
    """`Model.last_hidden` for one new token; Python makes one call for all that lies between two attentions."""

    def __init__(self, embedding: Matrix, blocks: Sequence[Block], norm: Callable[[mx.array], mx.array]) -> None:
        def first(ids: mx.array, offset: mx.array) -> tuple[mx.array, ...]:
            h = embedding.rows(ids[:, 0])  # [B, E], without L: every product would have to reshape it away
            return h, *blocks[0].before(h, offset)

        def between(done: Block, following: Block) -> Callable[..., tuple[mx.array, ...]]:
            def stretch(h: mx.array, mixed: mx.array, offset: mx.array) -> tuple[mx.array, ...]:
                h = done.after(h, mixed)
                return h, *following.before(h, offset)

            return compile_function(stretch)

        self.first = compile_function(first)
        self.stretches = [between(*pair) for pair in pairwise(blocks)]
        self.last = compile_function(lambda h, mixed: norm(blocks[-1].after(h, mixed)))

    def __call__(self, ids: mx.array, cache: Cache) -> mx.array:
        """ids [B, 1] -> normalised states [B, E]."""
        offset = cache[0].offset
        position = offset if isinstance(offset, mx.array) else mx.array(offset)  # each new number would be traced again
        h, q, k, v = self.first(ids, position)
        for layer, stretch in zip(cache[:-1], self.stretches, strict=True):
            h, q, k, v = stretch(h, layer.attend(q, k, v), position)
        states: mx.array = self.last(h, cache[-1].attend(q, k, v))
        return states
