"""How likely a model finds the tokens of a prompt, for programs that judge texts instead of continuing them."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import chain
from threading import Lock

from elm_mlx.arguments import Progress
from elm_mlx.device.backend import mx
from elm_mlx.engine.cache.kind import PLAIN
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.logprobs import Noter, TokenLogprob
from elm_mlx.engine.prefill import Chunk, rounds
from elm_mlx.engine.worker import Worker
from elm_mlx.errors import InvalidRequest

LOOK_S = 0.02  # between looks whether a prompt's turn has come


class PromptReading:
    """A prompt that a model with an adapter reads chunk by chunk, for the log-probability of each of its ids but the
    first and `most` alternatives to it. It is for the device thread alone. Close it: until then its cache's bytes are
    reserved. Raises InvalidRequest for an adapter that was unloaded, NotEnoughMemory for a cache that never has room.
    """

    def __init__(self, engine: Engine, ids: Sequence[int], most: int, adapter: int | None = None) -> None:
        if not engine.variants.has(adapter):
            raise InvalidRequest("The adapter was unloaded before its turn came.")
        self.found: list[TokenLogprob] = []
        self._engine, self._model, self._most = engine, engine.variants.of(adapter), most
        self._ids, self._cache, self._chunks = mx.array([ids]), list[Layer](), deque[Chunk]()
        self._needed, self._reserved = engine.limits.bytes_of(PLAIN, len(ids)), 0
        engine.limits.budget.refuse_impossible(self._needed, len(ids))

    def begin(self) -> bool:
        """Makes the cache, as soon as the budget has room for it; returns whether it has."""
        budget, length = self._engine.limits.budget, self._ids.shape[1]
        if not budget.has_room(self._needed):
            return False
        budget.reserve(self._needed)
        self._reserved = self._needed
        self._cache = new_cache(self._model, self._engine.layers, length, reserve=length)
        columns = self._cache[0].columns(sys.maxsize)
        self._chunks = deque(chain.from_iterable(rounds(length, self._engine.execution, 0, columns)))
        return True

    def advance(self) -> int:
        """Reads the next chunk, whose logits alone are in memory, and returns how many ids are read; 0 after all."""
        if not self._chunks:
            return 0
        place, which = self._chunks.popleft()
        following = self._ids[0, which.start + 1 : which.stop + 1]
        if count := following.size:
            with place:
                logits = self._model.head(self._model.hidden(self._ids[:, which], self._cache))[0, :count]
                note = Noter([(row, row, self._most) for row in range(count)], count, compiled=False)(logits, following)
                mx.eval(note.arrays())
            self.found += [entry for _, entry in note.entries()]
        return which.stop

    def close(self) -> None:
        """Gives the memory back."""
        self._engine.limits.budget.release(self._reserved)
        self._reserved, self._cache = 0, []
        self._chunks.clear()
        mx.clear_cache()


def prompt_logprobs_of(
    worker: Worker, turn: Lock, ids: Sequence[int], most: int, adapter: int | None, progress: Progress
) -> list[TokenLogprob]:
    """An entry for each id but the first, with `most` alternatives. The prompts of a model that are read so take turns,
    by `turn`; other requests have a step between two chunks. `progress` is called with (ids read, in all), also while
    nothing is read yet. Raises as PromptReading and `Worker.submit`, and what `progress` raises."""
    with worker.place():
        while not turn.acquire(timeout=LOOK_S):
            progress(0, len(ids))
        try:
            return _read(
                worker, worker.call(lambda engine: PromptReading(engine, ids, most, adapter)), len(ids), progress
            )
        finally:
            turn.release()


def _read(worker: Worker, reading: PromptReading, total: int, progress: Progress) -> list[TokenLogprob]:
    """Reads a prompt from beginning to end."""
    try:
        while not worker.call(lambda _: reading.begin()):
            time.sleep(LOOK_S)
            progress(0, total)
        while done := worker.call(lambda _: reading.advance()):
            progress(done, total)
        return reading.found
    finally:
        worker.order(reading.close)
