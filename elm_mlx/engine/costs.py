"""What a round of speculation costs on this machine, measured: with so many proposals, in steps of plain decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import mlx.core as mx

from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.draft import Draft, DraftProposer
from elm_mlx.engine.finite import peaks
from elm_mlx.engine.judge import judge, with_last
from elm_mlx.engine.request import GREEDY
from elm_mlx.engine.sampling import Sampler

COUNTS = (1, 2, 3, 4, 6)  # of proposals in a round: few, since each is compiled once; 7 rows are the most
DEPTH = 32  # ids that the caches hold meanwhile
STEPS, ROUNDS = 4, 2  # that are timed together: about as long, as what else runs disturbs a longer time more often
SECONDS, TURNS = 0.8, 7  # the measuring goes on for so long, and takes so many turns; the first of them compiles
LONGEST, LEAST = 4.0, 2  # seconds after which it takes no further turn, once it has so many: large models are slow


def measure_costs(model: Decodes, layers: int, most: int, draft: Draft | None) -> Mapping[int, float]:
    """The time of a round by its number of proposals, those of COUNTS up to `most`, in plain steps; proposals are the
    draft's, or cost nothing.

    Both are timed in turns, so that a machine that becomes slower does so for both, and the median turn counts. What
    is no noise is used, too: a round takes no longer than one with more proposals, and longer than a plain step.
    """
    bench = Bench(model, layers, draft)
    counts = [count for count in COUNTS if count <= most]
    turns: list[list[float]] = []
    begun = time.perf_counter()
    while is_too_early(len(turns), time.perf_counter() - begun):
        plain = seconds(bench.steps) / STEPS
        turns.append([seconds(lambda count=count: bench.rounds(count)) / ROUNDS / plain for count in counts])  # type: ignore[misc]
    return rising({count: median(costs) for count, costs in zip(counts, zip(*turns[1:], strict=True), strict=True)})


def is_too_early(turns: int, spent: float) -> bool:
    """Whether to go on measuring after so many turns, which took `spent` seconds."""
    if turns < LEAST:
        return True
    return spent < LONGEST and (turns < TURNS or spent < SECONDS)


def seconds(work: Callable[[], None]) -> float:
    """How long a piece of work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def rising(costs: Mapping[int, float]) -> dict[int, float]:
    """Costs by the number of proposals, 1 at least, where neighbours that fall get their mean: so they rise, and are
    changed as little as possible (isotonic regression by pooling adjacent violators)."""
    pools: list[tuple[float, int]] = []  # (mean, how many)
    for cost in costs.values():
        mean, size = cost, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, size = (mean * size + other * others) / (size + others), size + others
        pools.append((mean, size))
    means = [max(1.0, mean) for mean, size in pools for _ in range(size)]
    return dict(zip(costs, means, strict=True))


class Bench:
    """A made-up sequence that is decoded in plain steps and in rounds."""

    def __init__(self, model: Decodes, layers: int, draft: Draft | None) -> None:
        self.model, self.cache = model, new_cache(model, layers, 2 * DEPTH, 2 * DEPTH)
        self.ids = [0] * (DEPTH + 1)
        self.proposer = DraftProposer(draft, 2 * DEPTH) if draft else None
        mx.eval(model.hidden(mx.array([self.ids[:-1]]), self.cache))
        if self.proposer:
            self.proposer.read(self.ids)

    def steps(self) -> None:
        """Decodes as the engine does without proposals: a step is handed over before the ids of the last one are
        read."""
        ahead: list[mx.array] = [mx.array([0], mx.uint32)]
        for _ in range(STEPS):
            logits = self.model.head(self.model.last_hidden(ahead[0][:, None], self.cache))
            before, ahead = ahead, [mx.argmax(logits, axis=-1), peaks(logits)]
            mx.async_eval(*ahead)
            before[0].tolist()
        mx.eval(*ahead)
        take_back(self.cache, DEPTH)

    def rounds(self, count: int) -> None:
        """Takes rounds, each of which proposes so many ids and judges them."""
        for _ in range(ROUNDS):
            guesses = self.proposer.propose(count) if self.proposer else [0] * count
            judge(self.model, self.cache, Sampler(GREEDY, 0), with_last(0, guesses))
            take_back(self.cache, DEPTH)
            if self.proposer:
                take_back(self.proposer.cache, DEPTH)


def take_back(cache: list[Layer], held: int) -> None:
    """Trims caches to so many positions."""
    for layer in cache:
        layer.trim(layer.offset - held)
