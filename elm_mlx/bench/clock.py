"""The one clock for both programs: what is prepared, what is timed, what is left out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from itertools import cycle
from typing import Any, Protocol

import mlx.core as mx

from elm_mlx.bench.cases import DECODE, PROMPT, Case, Sample
from elm_mlx.engine.sampling import Sampler, Sampling


class Program(Protocol):
    """What is measured: `make_cache` for so many positions, `read` of ids into it up to the last one's logits, `decode`
    of so many tokens, an item each, after a prompt; `settle` returns when nothing is being computed."""

    def make_cache(self, positions: int) -> Any: ...
    def read(self, ids: list[int], cache: Any) -> None: ...
    def decode(self, prompt: list[int], sampler: Sampler, tokens: int) -> Generator[Any, None, None]: ...
    def settle(self) -> None: ...


class Trace(Sampler):
    """A sampler that samples nothing: the next of the ids decided before, as soon as the logits [B, V] are there."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__(Sampling(), seed=0)
        self.ids = cycle([mx.array([token]) for token in ids])

    def __call__(self, logits: mx.array) -> mx.array:
        return mx.depends([next(self.ids)], [logits])[0]


def sample(program: Program, case: Case, ids: list[int]) -> Sample:
    """One run of `case` over `ids`, of which nothing is left when the next one begins."""
    mx.reset_peak_memory()
    work = prepare(program, case, ids)
    begun, host = time.perf_counter(), time.thread_time()
    work()
    spent, worked = time.perf_counter() - begun, time.thread_time() - host
    del work
    program.settle()
    return Sample(spent, worked, mx.get_peak_memory())


def prepare(program: Program, case: Case, ids: list[int]) -> Callable[[], object]:
    """What is timed of a case, with all that comes before it done."""
    before, rest = ids[: case.before], ids[case.before :]
    if case.kind == PROMPT:
        cache = program.make_cache(len(ids))
        if before:
            program.read(before, cache)
        return lambda: program.read(rest, cache)
    if case.kind == DECODE:  # the first token comes with the prompt
        steps = program.decode(before, Trace(rest), case.tokens + 1)
        next(steps)
        return lambda: deque(steps, maxlen=0)
    steps = program.decode(rest[:-1], Trace(rest), 2)  # as in a long request, the second is under way with the first
    return lambda: next(steps)
