"""What a round of speculation costs on this machine, measured: with so many proposals, in steps of plain decoding."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

import mlx.core as mx

from elm_mlx.engine.cache.kv import KVCache, make_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.engine.draft import Draft, DraftProposer
from elm_mlx.engine.finite import peaks
from elm_mlx.engine.judge import judge
from elm_mlx.engine.request import GREEDY
from elm_mlx.engine.sampling import Sampler

COUNTS = (1, 2, 3, 4, 6)  # of proposals in a round: few, since each is compiled once; 7 rows are the most
DEPTH = 32  # ids that the caches hold meanwhile
STEPS = 4  # plain ones that are timed together, as each waits for the one before
SECONDS, TURNS = 0.5, 3  # the measuring goes on for so long, and takes so many turns; the first of them compiles


def measure_costs(model: Decodes, layers: int, most: int, draft: Draft | None) -> Mapping[int, float]:
    """The time of a round by its number of proposals, those of COUNTS up to `most`, in plain steps; proposals are the
    draft's, or cost nothing.

    Each is the shortest of several times that were taken in turns, since what else runs on the machine only makes them
    longer. For the same reason a round counts for no more than one with more proposals took.
    """
    bench = Bench(model, layers, draft)
    times: defaultdict[int, list[float]] = defaultdict(list)
    begun = time.perf_counter()
    while len(times[0]) < TURNS or time.perf_counter() - begun < SECONDS:
        for count in (0, *(count for count in COUNTS if count <= most)):
            start = time.perf_counter()
            bench.round(count) if count else bench.steps()
            times[count].append((time.perf_counter() - start) / (1 if count else STEPS))
    shortest = {count: min(taken) for count, taken in times.items()}
    return rising({count: taken / shortest[0] for count, taken in shortest.items() if count})


def rising(costs: Mapping[int, float]) -> dict[int, float]:
    """Costs by the number of proposals, each lowered to the least of those with more of them."""
    return {count: min(cost for other, cost in costs.items() if other >= count) for count in costs}


class Bench:
    """A made-up sequence that is decoded in plain steps and in rounds."""

    def __init__(self, model: Decodes, layers: int, draft: Draft | None) -> None:
        self.model, self.cache = model, make_cache(layers, 2 * DEPTH, 2 * DEPTH)
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

    def round(self, count: int) -> None:
        """Proposes so many ids and judges them."""
        guesses = self.proposer.propose(count) if self.proposer else [0] * count
        judge(self.model, self.cache, Sampler(GREEDY, 0), 0, guesses)
        take_back(self.cache, DEPTH)
        if self.proposer:
            take_back(self.proposer.cache, DEPTH)


def take_back(cache: list[KVCache], held: int) -> None:
    """Trims caches to so many positions."""
    for layer in cache:
        layer.trim(layer.offset - held)
