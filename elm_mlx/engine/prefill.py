"""Reading a prompt: in chunks, so that memory stays bounded, and on several device streams where there are some."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from itertools import chain
from math import ceil

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.device.execution import Execution
from elm_mlx.device.side_by_side import Place, places
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.decodes import Decodes

LEAST_AT_DEPTH = 8  # ids that a stream reads in a round, however long the prompt is (benchmarks/LOG.md)
DEFAULT_EXECUTION = Execution()

Chunk = tuple[Place, slice]  # where to compute it, which ids


class Reading:
    """A prompt that is being read, ids [B, L], a round of chunks at a time: one chunk on each device stream. The cache
    may hold positions already; the ids come after them."""

    def __init__(
        self, model: Decodes, ids: mx.array, cache: Sequence[Layer], execution: Execution = DEFAULT_EXECUTION
    ) -> None:
        self.model, self.ids, self.cache = model, ids, cache
        self.rounds = deque(rounds(ids.shape[1], execution, cache[0].offset, cache[0].columns(sys.maxsize)))
        self.read = 0  # ids

    def advance(self) -> mx.array | None:
        """Reads one round, not evaluated yet. Returns the logits [B, V] after the last id, the only logits that are
        computed, or None where ids are left."""
        for place, which in self.rounds.popleft():
            self.read = which.stop
            with place:
                if self.read == self.ids.shape[1]:
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
    most = cache[0].columns(sys.maxsize)
    for where, which in chain.from_iterable(rounds(ids.shape[1], execution, cache[0].offset, most)):
        with where:
            logits.append(model.head(model.hidden(ids[:, which], cache)))
    return mx.concatenate(logits, axis=1)


def rounds(length: int, execution: Execution, held: int = 0, most: int = sys.maxsize) -> list[list[Chunk]]:
    """The chunks of a prompt of `length` ids that come after `held` positions, in rounds: one chunk on each device
    stream.

    On its stream a chunk can begin a layer as soon as the chunk before it has left its keys and values there. Where
    the Execution has a `chunk_area`, a round becomes smaller as more positions are held, of which there are `most` in
    memory.
    """
    found, start = [], 0
    while start < length:
        size, streams = cut(length - start, min(held + start, most), execution)
        starts = range(start, min(start + size * streams, length), size)
        chunks = [slice(n, min(n + size, length)) for n in starts]
        found.append(list(zip(places(execution.streams, len(chunks)), chunks, strict=True)))
        start = chunks[-1].stop
    return found


def cut(left: int, held: int, execution: Execution) -> tuple[int, int]:
    """(ids of a chunk, chunks of a round) where `left` ids are still to be read and `held` positions are held.

    What is left is shared among as many streams as get a least chunk. All chunks of a round may be computed at once, so
    ids times positions of the whole round stay within the `chunk_area`: first chunks become smaller, then fewer streams
    get one, and a round of LEAST_AT_DEPTH ids is read at any depth.
    """
    streams = max(1, min(len(execution.streams), left // execution.least_chunk))
    size = min(execution.chunk, ceil(left / streams))
    if not execution.chunk_area:
        return size, streams
    most = max(LEAST_AT_DEPTH, execution.chunk_area // (held + min(size * streams, left)))  # ids of a round
    streams = min(streams, most // LEAST_AT_DEPTH)
    return min(size, most // streams), streams
