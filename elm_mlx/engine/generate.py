"""The decoding loop: prefill in chunks, then one id at a time, the next step submitted before the last is read."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from math import ceil
from typing import Protocol

import mlx.core as mx

from elm_mlx.arguments import Progress
from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.sampling import Sampler

Stream = mx.Device | mx.Stream | mx.ThreadLocalStream

PREFILL_CHUNK = 512
LEAST_CHUNK = 64  # ids that are worth a stream of their own, where there are several


class Decoder(Protocol):
    """What a model does here: states for ids, logits for states."""

    def hidden(self, ids: mx.array, cache: Sequence[KVCache] | None) -> mx.array:
        """ids [B, L] -> states [B, L, E]; keys and values go into the cache."""
        ...

    def last_hidden(self, ids: mx.array, cache: Sequence[KVCache]) -> mx.array:
        """The same, the last position's state alone: [B, E]."""
        ...

    def head(self, states: mx.array) -> mx.array:
        """States [..., E] -> logits [..., V]."""
        ...


def prefill(
    model: Decoder,
    ids: mx.array,
    cache: Sequence[KVCache],
    *,
    chunk: int = PREFILL_CHUNK,
    streams: Sequence[Stream] = (),
    progress: Progress | None = None,
) -> mx.array:
    """Feeds ids [B, L] in chunks and returns the logits [B, V] after the last, the only row of the top computed."""
    length = ids.shape[1]
    *full, (place, last) = _chunks(length, chunk, streams)
    for count, (where, which) in enumerate(full, 1):
        with where:
            model.hidden(ids[:, which], cache)
        if count % max(1, len(streams)) == 0:
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
    model: Decoder,
    ids: mx.array,
    cache: Sequence[KVCache],
    *,
    chunk: int = PREFILL_CHUNK,
    streams: Sequence[Stream] = (),
) -> mx.array:
    """The logits after every id, read in the chunks that `prefill` takes: [B, L] -> [B, L, V], not evaluated."""
    logits = []
    for where, which in _chunks(ids.shape[1], chunk, streams):
        with where:
            logits.append(model.head(model.hidden(ids[:, which], cache)))
    return mx.concatenate(logits, axis=1)


def _chunks(length: int, chunk: int, streams: Sequence[Stream]) -> list[tuple[AbstractContextManager, slice]]:
    """(where to compute it, which ids) of each chunk of a prompt.

    Several streams take one each in turn, and it is cut for all of them: the next is a layer behind, where it waits
    for keys and values alone.
    """
    turns: Sequence[AbstractContextManager] = [mx.stream(stream) for stream in streams] or [nullcontext()]
    size = min(chunk, max(LEAST_CHUNK, ceil(length / len(turns))))
    parts = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    return list(zip(cycle(turns), parts, strict=False))


def generate(
    model: Decoder,
    prompt: Sequence[int],
    cache: Sequence[KVCache],
    sampler: Sampler,
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    chunk: int = PREFILL_CHUNK,
    streams: Sequence[Stream] = (),
    progress: Progress | None = None,
) -> Generator[int, None, None]:
    """Yields up to `max_tokens` ids after `prompt`; the last one is a stop id if one was drawn.

    While the caller reads an id the next is being computed, except past the end. The cache needs room for
    len(prompt) + max_tokens - 1 positions (CacheFull otherwise) and ends up holding the prompt and every id
    yielded but the last, however the loop ends.
    """
    logits = prefill(model, mx.array([prompt]), cache, chunk=chunk, streams=streams, progress=progress)
    ahead = sampler(logits)
    mx.async_eval(ahead)
    held = cache[0].offset
    try:
        for count in range(1, max_tokens + 1):
            current = ahead
            if count < max_tokens:
                ahead = sampler(model.head(model.last_hidden(current[:, None], cache)))
                mx.async_eval(ahead)
            token = int(current.item())  # type: ignore[arg-type]
            yield token
            if token in stop_ids:
                return
            held += 1
    finally:
        for layer in cache:
            layer.trim(layer.offset - held)
