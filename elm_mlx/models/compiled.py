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


class CompiledStep:
    """The states after one new token, or after a few of one row; Python makes one call for all that lies between two
    attentions. `embed` gives the states of ids: [B] -> [B, E], [B, L] -> [B, L, E]. MLX traces the
    stretches once for each number of tokens, so only few numbers should be used. What `which` holds is an input of each
    stretch."""

    def __init__(
        self,
        embed: Callable[[mx.array], mx.array],
        blocks: Sequence[Block],
        norm: Callable[[mx.array], mx.array],
        which: list[mx.array] | None = None,
    ) -> None:
        def first(ids: mx.array, offset: mx.array) -> tuple[mx.array, ...]:
            # [B, E], without L where that is 1: every product would have to reshape it away; else [B, L, E]
            h = embed(ids[:, 0] if ids.shape[1] == 1 else ids)
            return h, *blocks[0].before(h, offset)

        def between(done: Block, following: Block) -> Callable[..., tuple[mx.array, ...]]:
            def stretch(h: mx.array, mixed: mx.array, offset: mx.array) -> tuple[mx.array, ...]:
                h = done.after(h, mixed)
                return h, *following.before(h, offset)

            return compile_function(stretch, inputs=which)

        self.first = compile_function(first, inputs=which)
        self.stretches = [between(*pair) for pair in pairwise(blocks)]
        self.last = compile_function(lambda h, mixed: norm(blocks[-1].after(h, mixed)), inputs=which)

    def __call__(self, ids: mx.array, cache: Cache) -> mx.array:
        """ids [B, 1] -> normalised states [B, E]; ids [B, L] -> [B, L, E]."""
        offset = cache[0].offset
        position = offset if isinstance(offset, mx.array) else mx.array(offset)  # each new number would be traced again
        h, q, k, v = self.first(ids, position)
        for layer, stretch in zip(cache[:-1], self.stretches, strict=True):
            h, q, k, v = stretch(h, layer.attend(q, k, v), position)
        states: mx.array = self.last(h, cache[-1].attend(q, k, v))
        return states
