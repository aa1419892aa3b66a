"""The clock for requests that one program answers together."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import mlx.core as mx

from elm_mlx.bench.loads import Load, Mark, Run


class Session(Protocol):
    """What a program does for requests that it answers together: `add` takes one more, `step` does a step of the
    program's own loop and gives the numbers, in the order of `add`, of the requests that have one more token, and
    `close` drops what is unanswered and returns when nothing is being computed."""

    def add(self, prompt: list[int], tokens: int) -> object: ...
    def step(self) -> list[int]: ...
    def close(self) -> None: ...


def answer(session: Session, load: Load) -> Run:
    """Answers a load and reports how long that took. Nothing of the run is left when the next one begins."""
    mx.reset_peak_memory()
    begun, ended = Watch(session, load).run()
    peak = mx.get_peak_memory()
    session.close()
    return Run(begun, ended, peak)


class Watch:
    """One run of a load: adds the requests as they come, counts their tokens, and takes the time."""

    def __init__(self, session: Session, load: Load) -> None:
        self.session, self.counted, self.coming = session, load.counted, deque(load.arrivals)
        self.left = sum(arrival.tokens for arrival in load.arrivals)
        self.open = 0  # tokens that the requests which came still get
        self.unbegun, self.tokens = set(range(len(load.arrivals))), 0
        self.start, self.start_cpu = time.perf_counter(), time.process_time()

    def run(self) -> tuple[Mark, Mark]:
        """(when every request had its first token, when the run ended)."""
        while self.unbegun:
            self.step()
        begun = self.mark()
        last = min(self.left, self.left if self.counted is None else self.counted) + begun.tokens
        while self.tokens < last:
            self.step()
        return begun, self.mark()

    def step(self) -> None:
        """Adds who comes now, or who comes next where all others are answered, and takes a step."""
        while self.coming and (self.coming[0].after <= self.tokens or not self.open):
            arrival = self.coming.popleft()
            self.session.add(arrival.prompt, arrival.tokens)
            self.open += arrival.tokens
        numbers = self.session.step()
        self.unbegun.difference_update(numbers)
        self.tokens += len(numbers)
        self.left -= len(numbers)
        self.open -= len(numbers)

    def mark(self) -> Mark:
        return Mark(time.perf_counter() - self.start, time.process_time() - self.start_cpu, self.tokens)
