"""An engine driven at random, and the plain loop that says what each request must give."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import mlx.core as mx
import numpy as np
from helpers import checkpoints
from helpers.automata import Broken

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.cache.kind_cache import make_kind_cache
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.draft import Draft
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.plain import generate
from elm_mlx.engine.request import Request
from elm_mlx.engine.sampling import Sampler
from elm_mlx.engine.sequence import CANCELLED, Sequence
from elm_mlx.engine.speculate import Speculation

TOKEN_BYTES = 100  # a round number, for budgets that are easy to reckon
ROUNDING = 0.05  # of log-probabilities, in a batch of products in 16 bits
SAMPLINGS = (
    Sampling(),
    Sampling(),
    Sampling(1.0),
    Sampling(0.8, top_k=20),
    Sampling(1.3, top_p=0.9),
    Sampling(1.0, min_p=0.05),
    Sampling(repetition_penalty=1.3),
    Sampling(0.9, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3, logit_bias=((3, 2.0),)),
    Sampling(0.8, top_p=0.9, logit_bias=((5, -1.5), (9, 4.0)), banned=(1, 2, 7)),
)


def make_engine(
    lm: elm_mlx.LanguageModel, *, positions: int = 100_000, speculation: Speculation | None = None, **options: object
) -> Engine:
    """An engine for a loaded model, with room for so many positions in all caches. `options` are those of Limits and
    Execution."""
    names = Limits.__dataclass_fields__
    limits = {name: value for name, value in options.items() if name in names}
    execution = {name: value for name, value in options.items() if name not in names}
    budget = Budget(positions * TOKEN_BYTES)
    return Engine(
        lm.model,
        lm.config.num_layers,
        Limits(lm.config.context_length, TOKEN_BYTES, budget, **limits),  # type: ignore[arg-type]
        replace(lm.execution, **execution),  # type: ignore[arg-type]
        speculation,
    )


def draft_of(lm: elm_mlx.LanguageModel, token_bytes: int = TOKEN_BYTES) -> Draft:
    """A loaded model as a draft."""
    return Draft(lm.model, lm.config.num_layers, lm.config.context_length, token_bytes, lm.execution)


def plain_ids(lm: elm_mlx.LanguageModel, request: Request, seen: list[mx.array] | None = None) -> list[int]:
    """The ids that the plain loop gives for a request alone, until its automaton, if it has one, breaks. `seen` is
    given the logits of each."""
    assert request.max_tokens
    positions = len(request.prompt) + request.max_tokens - 1
    kind, layers = request.cache, lm.config.num_layers
    cache = make_cache(layers, positions) if kind.is_plain else make_kind_cache(kind, layers, positions)
    sampler = Sampler(request.sampling, request.seed, request.prompt)
    stopper = request.stopper() if request.stopper else None
    constraint = request.constraint() if request.constraint else None
    ids: list[int] = []
    with suppress(Broken):
        for token in generate(
            lm.model, request.prompt, cache, sampler, max_tokens=request.max_tokens, stop_ids=request.stop_ids,
            stopper=stopper, constraint=constraint, execution=lm.execution, seen=seen,
        ):  # fmt: skip
            ids.append(token)
    return ids


def random_request(rng: random.Random, number: int, kinds: tuple[CacheKind, ...] = (PLAIN,)) -> Request:
    """A short request; many begin alike."""
    begin = checkpoints.prompt(40, seed=rng.randint(0, 2))[: rng.choice([0, 0, 20, 40])]
    prompt = (*begin, *checkpoints.prompt(rng.choice([1, 2, 5, 20, 60]), seed=rng.randint(0, 99)))
    stops = frozenset(rng.sample(range(checkpoints.VOCAB), rng.choice([0, 20])))
    asked, kind = rng.choice([None, None, None, 0, 3]), rng.choice(kinds)
    return Request(
        prompt, rng.choice([1, 2, 8, 30]), rng.choice(SAMPLINGS), number, stops, logprobs=asked, cache=kind
    )  # fmt: skip


class RandomRun:
    """Requests that are submitted, cancelled, held up by their readers and answered in an order that a seed decides."""

    def __init__(self, engine: Engine, rng: random.Random, count: int, kinds: tuple[CacheKind, ...] = (PLAIN,)) -> None:
        self.engine, self.rng = engine, rng
        self.todo = [random_request(rng, number, kinds) for number in range(count)]
        self.sequences: list[Sequence] = []

    def run(self, before_step: Callable[[], None] = lambda: None) -> list[Sequence]:
        """Runs until every request has ended, and returns their sequences."""
        while self.todo or not all(one.finish for one in self.sequences):
            self.act()
            before_step()
            self.engine.step()
        return self.sequences

    def act(self) -> None:
        """What callers and readers do between two steps."""
        rng = self.rng
        while self.todo and rng.random() < 0.4:
            self.sequences.append(self.engine.submit(self.todo.pop()))
        if self.sequences and rng.random() < 0.05:
            self.engine.cancel(rng.choice(self.sequences))
        for one in self.sequences:
            if rng.random() < 0.05:
                one.bound = 2
            if rng.random() < 0.3 or not self.engine.has_work:
                one.taken, one.bound = len(one.ids), None


def check_answers(lm: elm_mlx.LanguageModel, sequences: list[Sequence]) -> None:
    """Asserts that each sequence has the ids of the plain loop, or, where it was cancelled, the first of them; and
    their log-probabilities, if it asked for them."""
    for one in sequences:
        seen: list[mx.array] = []
        expected = plain_ids(lm, one.request, seen)
        if one.finish == CANCELLED:
            expected = expected[: len(one.ids)]
        assert one.ids == expected, one.request
        check_logprobs(one, seen[: len(one.ids)])


def check_logprobs(one: Sequence, seen: list[mx.array]) -> None:
    """Asserts that the log-probabilities of a sequence, if it asked for them, are those of the logits [1, V] that each
    of its ids was drawn from, but for the rounding of a batch."""
    most = one.request.logprobs
    assert len(one.logprobs) == (0 if most is None else len(one.ids))
    for entry, id, logits in zip(one.logprobs, one.ids, seen, strict=False):
        x = np.array(logits.astype(mx.float32), np.float64)[0]
        x -= np.logaddexp.reduce(x)
        assert abs(entry.logprob - x[id]) < ROUNDING
        assert len(entry.alternatives) == most
        assert all(abs(value - x[other]) < ROUNDING for other, value in entry.alternatives)
        assert np.allclose([value for _, value in entry.alternatives], np.sort(x)[::-1][:most], atol=ROUNDING)
