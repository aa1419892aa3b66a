"""The one clock for both programs: what is prepared, what is timed, what is left out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

import mlx.core as mx

from elm_mlx.bench.cases import DECODE, PROMPT, Case, Sample


class Program(Protocol):
    """A program that is measured: `make_cache` makes a cache for `positions`, `read` reads ids into it up to the last
    one's logits, `decode` gives an item for each of `tokens` after a prompt, each of them the likeliest one, and
    `settle` returns when nothing is being computed."""

    def make_cache(self, positions: int) -> Any: ...
    def read(self, ids: list[int], cache: Any) -> None: ...
    def decode(self, prompt: list[int], tokens: int) -> Generator[Any, None, None]: ...
    def settle(self) -> None: ...


def sample(program: Program, case: Case, ids: list[int]) -> Sample:
    """Times one run of `case` over `ids`. Nothing of the run is left when the next one begins."""
    mx.reset_peak_memory()
    work = prepare_case(program, case, ids)
    begun, host = time.perf_counter(), time.thread_time()
    work()
    spent, worked = time.perf_counter() - begun, time.thread_time() - host
    del work
    program.settle()
    return Sample(spent, worked, mx.get_peak_memory())


def prepare_case(program: Program, case: Case, ids: list[int]) -> Callable[[], object]:
    """Does what comes before the timed part of a case, and returns that part as a function."""
    if case.kind == PROMPT:
        before, rest = ids[: case.before], ids[case.before :]
        cache = program.make_cache(len(ids))
        if before:
            program.read(before, cache)
        return lambda: program.read(rest, cache)
    if case.kind == DECODE:  # the first token comes with the prompt
        steps = program.decode(ids, case.tokens + 1)
        next(steps)
        return lambda: deque(steps, maxlen=0)
    steps = program.decode(ids, 2)  # as in a long request, step 2 is submitted with step 1
    return lambda: next(steps)
