"""Reading a prompt: in chunks, so that memory stays bounded, and on several device streams where there are some."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from math import ceil

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.decodes import Decodes

LEAST_CHUNK = 64  # ids: a smaller chunk is not worth another stream
DEFAULT_EXECUTION = Execution()


class Reading:
    """A prompt that is being read, ids [B, L], a round of chunks at a time: one chunk on each device stream."""

    def __init__(
        self, model: Decodes, ids: mx.array, cache: Sequence[Layer], execution: Execution = DEFAULT_EXECUTION
    ) -> None:
        self.model, self.ids, self.cache = model, ids, cache
        self.chunks = deque(chunks(ids.shape[1], execution))
        self.round = max(1, len(execution.streams))
        self.read = 0  # ids

    def advance(self) -> mx.array | None:
        """Reads one round, not evaluated yet. Returns the logits [B, V] after the last id, the only logits that are
        computed, or None where ids are left."""
        for _ in range(self.round):
            place, which = self.chunks.popleft()
            self.read = which.stop
            with place:
                if not self.chunks:
                    return self.model.head(self.model.last_hidden(self.ids[:, which], self.cache))
                self.model.hidden(self.ids[:, which], self.cache)
        return None

    def arrays(self) -> list[mx.array]:
        """The caches' buffers, so that a caller can evaluate what was read."""
        return [array for layer in self.cache for array in layer.arrays()]


def prefill(
    model: Decodes,
    ids: mx.array,
    cache: Sequence[Layer],
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> mx.array:
    """Feeds ids [B, L] in chunks and returns the logits [B, V] after the last id, the only logits that are computed.

    `progress` is called with (ids read, ids in all) after each round of chunks.
    """
    reading = Reading(model, ids, cache, execution)
    while (logits := reading.advance()) is None:
        mx.eval(reading.arrays())
        mx.clear_cache()  # no later chunk has scratch buffers of this size
        if progress:
            progress(reading.read, ids.shape[1])
    if progress:
        mx.eval(logits)
        progress(reading.read, ids.shape[1])
    return logits


def all_logits(
    model: Decodes, ids: mx.array, cache: Sequence[Layer], execution: Execution = DEFAULT_EXECUTION
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
