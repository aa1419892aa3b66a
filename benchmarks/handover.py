"""What handing ids over to readers costs the engine: microseconds a step of the device thread's time.

    python benchmarks/handover.py [--readers N] [--steps N] [--json FILE]

An engine that computes nothing and takes STEP_S a step gives N requests an id each. Their readers are threads, or tasks
of one event loop, or nobody reads. Timed is the hand-over alone, at the end of each step: finding those who wait, and
waking them. Then the same beside a model that computes (the demo), where caches are cold, cores are shared, and not
each step has one. Figures are medians over all hand-overs to every request, and 90th percentiles, by the clock, and the
median of the thread's own processor time; on a busy machine they say little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import elm_mlx
from elm_mlx.api.asynchronous import wait_for_news
from elm_mlx.device.execution import Execution
from elm_mlx.device.memory import CacheWish
from elm_mlx.device.thread import DeviceThread
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.handle import Handle
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence
from elm_mlx.engine.worker import Worker
from elm_mlx.files import write_whole

PROMPT = "Once upon a time"
READERS, STEPS, STEP_S = 8, 400, 0.0025
MICRO = 1e6
Ask = Callable[[], Handle]


class Idle:
    """An engine that gives every request an id a step, and computes nothing."""

    def __init__(self, rows: int) -> None:
        self.executions = [Execution()]
        self.limits = Limits(STEPS, 1, Budget(10 * STEPS), rows)
        self.rows, self.active = rows, list[Sequence]()
        self.admission = self  # which is asked for `bytes_of` alone
        self.batch = SimpleNamespace()  # which would say when a step is handed over
        self.decodes_next = False  # so each hand-over is at the end of a step

    @property
    def has_work(self) -> bool:
        return len(self.active) == self.rows  # all begin together

    def bytes_of(self, request: Request, positions: int) -> int:
        return positions

    def submit(self, request: Request) -> Sequence:
        assert request.max_tokens
        self.active.append(Sequence(len(self.active), request, request.max_tokens))
        return self.active[-1]

    def step(self) -> list[Sequence]:
        time.sleep(STEP_S)
        news, self.active = self.active, []
        for sequence in news:
            sequence.accept(1, 0.0, time.perf_counter())
        self.active = [sequence for sequence in news if not sequence.finish]
        return news

    def close(self) -> None:
        self.active.clear()


def read_in_threads(ask: Ask, readers: int) -> None:
    """Waits for each id of each answer in a thread of its own."""

    def read() -> None:
        handle = ask()
        while (state := handle.state).finish is None:
            handle.wait(state)

    with ThreadPoolExecutor(readers) as pool:
        for done in [pool.submit(read) for _ in range(readers)]:
            done.result()


def read_in_a_loop(ask: Ask, readers: int) -> None:
    """Waits for each id of all answers in tasks of one event loop."""

    async def read() -> None:
        handle = ask()
        while (state := handle.state).finish is None:
            await wait_for_news(handle, state)

    async def read_all() -> None:
        await asyncio.gather(*(read() for _ in range(readers)))

    asyncio.run(read_all())


def wait_for_all(ask: Ask, readers: int) -> None:
    """Reads nothing, and waits for the answers' ends."""
    for handle in [ask() for _ in range(readers)]:
        handle.wait(None)


WAYS: dict[str, Callable[[Ask, int], None]] = {
    "threads": read_in_threads,
    "asyncio": read_in_a_loop,
    "nobody": wait_for_all,
}


class Taken(NamedTuple):
    """What a hand-over took, in microseconds: by the clock, and of the device thread's own processor time."""

    clock: float
    own: float


def record(readers: int) -> list[Taken]:
    """Has every hand-over to so many requests be timed; gives the list that the times come into."""
    times: list[Taken] = []
    usual = Worker._hand_over

    def timed(self: Worker, news: Iterable[Sequence]) -> None:
        news = list(news)
        begun, own = time.perf_counter(), time.thread_time()
        usual(self, news)
        if len(news) == readers:
            times.append(Taken((time.perf_counter() - begun) * MICRO, (time.thread_time() - own) * MICRO))

    Worker._hand_over = timed  # type: ignore[method-assign]
    return times


def measure(worker: Worker, request: Request, readers: int, times: list[Taken]) -> dict[str, dict[str, float]]:
    """For each way of reading: the median and the 90th percentile by the clock, the median of the thread's own time, in
    microseconds, and the steps that were timed."""
    found = {}
    for name, read in WAYS.items():
        times.clear()
        read(lambda: worker.submit(request, patient=True), readers)
        clock, own = zip(*times, strict=True)
        found[name] = {"median_us": statistics.median(clock), "p90_us": statistics.quantiles(clock, n=10)[-1],
                       "own_us": statistics.median(own), "steps": len(times)}  # fmt: skip
    return found


def measure_all(readers: int, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """The figures without and with a model that computes."""
    times = record(readers)
    thread = DeviceThread()
    worker = Worker(thread, Idle(readers), readers, CacheWish(0))  # type: ignore[arg-type]
    thread.call(lambda _: thread.turns.append(worker))
    found = {"idle": measure(worker, Request((1,), steps), readers, times)}
    thread.end()
    with elm_mlx.load(rows=readers) as lm:
        request = Request(tuple(lm.tokenizer.encode(PROMPT)), steps)
        found["computing"] = measure(lm._worker, request, readers, times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=READERS, help=f"requests that are answered together ({READERS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"ids of each answer ({STEPS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    given = parser.parse_args()
    found = measure_all(given.readers, given.steps)
    for device, ways in found.items():
        for name, figures in ways.items():
            times = f"median {figures['median_us']:6.1f} us  p90 {figures['p90_us']:7.1f} us"
            print(f"{device:<10} {name:<8} {times}  own {figures['own_us']:5.1f} us  {figures['steps']} steps")
    if given.json:
        write_whole(given.json, json.dumps({"readers": given.readers} | found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
