"""Random requests of every kind, and an engine that is driven at random with them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from helpers import checkpoints
from helpers.automata import Automaton
from helpers.engines import random_request

from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence

KINDS = (PLAIN, PLAIN, CacheKind(window=16, sinks=4, margin=16), CacheKind(key_bits=8, value_bits=8))


class Ends:
    """A stopper that ends an answer after some ids."""

    def __init__(self, left: int) -> None:
        self.left = left

    def add(self, _: int) -> str | None:
        self.left -= 1
        return None if self.left else "enough"


def varied(rng: random.Random, number: int) -> Request:
    """A random request; some have constraints, which may fail, stoppers, owners or siblings, and some keep nothing."""
    request = random_request(rng, number, KINDS)
    if rng.random() < 0.3:
        fails = rng.choice([None, None, 0, 2])
        make = partial(Automaton, number, checkpoints.VOCAB, request.stop_ids, fails, rng.random() < 0.5)
        request = replace(request, constraint=make, sampling=replace(request.sampling, banned=(), logit_bias=()))
    elif rng.random() < 0.3:
        request = replace(request, stopper=partial(Ends, rng.randint(1, 9)))
    return replace(
        request,
        owner=rng.choice([None, None, 1, 2]),
        family=rng.choice([None, None, None, 7]),
        find=rng.random() < 0.9,
        keep=rng.random() < 0.8,
    )


def drive(leader: Engine, rng: random.Random, todo: list[Request], step: Callable[[], object]) -> list[Sequence]:
    """Submits requests to an engine, cancels some, and lets readers be late, until all have ended; `step` takes a
    step."""
    sequences: list[Sequence] = []
    while todo or not all(one.finish for one in sequences):
        while todo and rng.random() < 0.4:
            sequences.append(leader.submit(todo.pop()))
        if sequences and rng.random() < 0.05:
            leader.cancel(rng.choice(sequences))
        if rng.random() < 0.02:
            leader.forget_prefixes()
        if rng.random() < 0.02:
            leader.disown(rng.choice([1, 2]))
        for one in sequences:
            if rng.random() < 0.05:
                one.bound = 2
            if rng.random() < 0.3 or not leader.has_work:
                one.taken, one.bound = len(one.ids), None
        step()
    return sequences
