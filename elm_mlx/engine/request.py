"""What is asked of the engine, in ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from elm_mlx.config.generation import Sampling
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.constraint import Constraint
from elm_mlx.engine.stopper import Stopper

GREEDY = Sampling()


class Judged(NamedTuple):
    """The id that comes `after` a prompt, and how many likeliest ids are noted beside it and each of the prompt's."""

    after: int
    alternatives: int


@dataclass(frozen=True)
class Request:
    """A prompt to continue, in ids, and how.

    The answer has at most `max_tokens` ids; None means as many as the model's context and the budget for caches have
    room for. It ends with the first of the `stop_ids` that is drawn. `seed` is any whole number; None lets the
    operating system choose one. With `find` the engine may begin with keys and values that it holds for the prompt's
    first ids, and with `keep` it keeps those of this request for later ones; neither changes an answer, but for near
    ties between two ids.

    `logprobs` is how many alternatives are noted beside the log-probability of each id; None notes none, 0 only that of
    the id itself. Requests of one `family` may begin with each other's keys and values, while they run, even where
    `find` is false. `stopper` makes what is asked of each id whether the answer ends there. `cache` says how keys and
    values are held. With `hold` those of an answered request stay in `Engine.held` until somebody calls `let_go`. With
    `lookup` ids are proposed that followed the same ids earlier in the prompt or the answer: that changes the speed
    alone. `constraint` makes what says, of one answer, which ids may come next. What is kept of a request with an
    `owner`, a number that no other one has, is kept for that owner's next request (Prefixes). `adapter` is the
    number of the adapter that answers (engine.variants), None for the plain model. With `judged` the log-probabilities
    of the prompt's ids, but for the first, and of the id after them are noted while the prompt is read.
    """

    prompt: tuple[int, ...]
    max_tokens: int | None = None
    sampling: Sampling = GREEDY
    seed: int | None = None
    stop_ids: frozenset[int] = frozenset()
    find: bool = True
    keep: bool = True
    logprobs: int | None = None
    stopper: Callable[[], Stopper] | None = None
    cache: CacheKind = PLAIN
    lookup: bool = False
    family: int | None = None
    hold: bool = False
    constraint: Callable[[], Constraint] | None = None
    owner: int | None = None
    adapter: int | None = None
    judged: Judged | None = None
