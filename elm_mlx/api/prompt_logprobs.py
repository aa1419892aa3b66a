"""How likely a model finds the tokens of a prompt, for programs that judge texts instead of continuing them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain

from elm_mlx.arguments import Progress
from elm_mlx.device.backend import mx
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.logprobs import Noter, TokenLogprob
from elm_mlx.engine.prefill import rounds
from elm_mlx.errors import InvalidRequest


def prompt_logprobs_of(
    engine: Engine, ids: Sequence[int], most: int, adapter: int | None = None, progress: Progress | None = None
) -> list[TokenLogprob]:
    """An entry for each id but the first, with `most` alternatives, by the model with an adapter. The logits of one
    chunk of the prompt are in memory at a time; after each, `progress` is called with (ids read, in all)."""
    if not engine.variants.has(adapter):
        raise InvalidRequest("The adapter was unloaded before its turn came.")
    model = engine.variants.of(adapter)
    cache = new_cache(model, engine.layers, len(ids), reserve=len(ids))
    tokens, found = mx.array([ids]), list[TokenLogprob]()
    for place, which in chain.from_iterable(rounds(len(ids), engine.execution, 0, cache[0].columns(sys.maxsize))):
        with place:
            states = model.hidden(tokens[:, which], cache)
            following = tokens[0, which.start + 1 : which.stop + 1]
            count = following.size
            if not count:
                break
            note = Noter([(row, row, most) for row in range(count)], count, compiled=False)(
                model.head(states)[0, :count], following
            )
            mx.eval(note.arrays())
            found += [entry for _, entry in note.entries()]
        if progress:
            progress(which.stop, len(ids))
    return found
