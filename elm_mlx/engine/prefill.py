"""Reading a prompt: in chunks, so that memory stays bounded, and on several device streams where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from math import ceil

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.decodes import Decodes

LEAST_CHUNK = 64  # ids: a smaller chunk is not worth another stream
DEFAULT_EXECUTION = Execution()


def prefill(
    model: Decodes,
    ids: mx.array,
    cache: Sequence[KVCache],
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> mx.array:
    """Feeds ids [B, L] in chunks and returns the logits [B, V] after the last id, the only logits that are computed.

    `progress` is called with (ids read, ids in all) after each round of chunks.
    """
    length = ids.shape[1]
    *full, (place, last) = chunks(length, execution)
    for count, (where, which) in enumerate(full, 1):
        with where:
            model.hidden(ids[:, which], cache)
        if count % max(1, len(execution.streams)) == 0:
            mx.eval([layer.arrays() for layer in cache])
            mx.clear_cache()  # no later chunk has scratch buffers of this size
            if progress:
                progress(which.stop, length)
    with place:
        logits = model.head(model.last_hidden(ids[:, last], cache))
    if progress:
        mx.eval(logits)
        progress(length, length)
    return logits


def all_logits(
    model: Decodes, ids: mx.array, cache: Sequence[KVCache], execution: Execution = DEFAULT_EXECUTION
) -> mx.array:
    """The logits after every id, read in the chunks that `prefill` takes: [B, L] -> [B, L, V], not evaluated yet."""
    logits = []
    for where, which in chunks(ids.shape[1], execution):
        with where:
            logits.append(model.head(model.hidden(ids[:, which], cache)))
    return mx.concatenate(logits, axis=1)


def chunks(length: int, execution: Execution) -> list[tuple[AbstractContextManager, slice]]:
    """(where to compute it, which ids) of each chunk of a prompt of `length` ids.

    Several streams take one chunk each in turn, and the prompt is cut so that each stream has one. On its stream a
    chunk can begin a layer as soon as the chunk before it has left its keys and values there.
    """
    turns: Sequence[AbstractContextManager] = [mx.stream(stream) for stream in execution.streams] or [nullcontext()]
    size = min(execution.chunk, max(LEAST_CHUNK, ceil(length / len(turns))))
    parts = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    return list(zip(cycle(turns), parts, strict=False))
