"""Rank 0's engine and another rank's in one process: messages go through JSON, and drawn ids through a queue."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import mlx.core as mx

import elm_mlx
from elm_mlx.distributed.following import FollowingEngine
from elm_mlx.distributed.leader import LeadingEngine
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.sequence import Sequence


class Line:
    """What lies between the twins: messages, and draws in their order."""

    def __init__(self) -> None:
        self.messages: deque[str] = deque()
        self.draws: deque[tuple[mx.array, mx.array]] = deque()


class TwinCrew:
    """A Crew of one of the twins."""

    def __init__(self, line: Line, is_first: bool) -> None:
        self.line, self.is_first, self.steps, self.has_failed = line, is_first, count(1), False
        self.spoils = False  # whether the next step of two rows has logits for the first that are no numbers

    def agree(self, ids: mx.array, peaks: mx.array) -> tuple[mx.array, mx.array]:
        if self.is_first:
            if self.spoils and len(ids) == 2:
                self.spoils, peaks = False, mx.array([math.nan, 1.0])
            self.line.draws.append((ids, peaks))
            return ids, peaks
        mx.eval(ids, peaks)  # what is drawn here must be computable, and counts for nothing
        those, highest = self.line.draws.popleft()
        assert those.shape == ids.shape, "the twins draw in another order"
        return those, highest

    def tell(self, message: dict[str, Any]) -> None:
        self.line.messages.append(json.dumps(message))

    @contextmanager
    def in_step(self) -> Iterator[int]:
        yield next(self.steps)

    def fail(self, error: BaseException) -> Exception:
        return RuntimeError(f"the run failed: {error!r}")

    def close(self) -> None:
        self.has_failed = False


class Twins:
    """An engine of rank 0 that takes requests, and one that follows it after each step. The follower may have another
    model of the same vocabulary, and other bytes a position: nothing but the caches' positions may count."""

    def __init__(
        self, lm: elm_mlx.LanguageModel, other: elm_mlx.LanguageModel, positions: int, scale: int = 1, **options: Any
    ) -> None:
        self.line = Line()
        names = Limits.__dataclass_fields__
        limits = {name: value for name, value in options.items() if name in names}
        execution = {name: value for name, value in options.items() if name not in names}
        self.leader, self.follower = (
            kind(
                one.model,
                one.config.num_layers,
                Limits(lm.config.context_length, unit, Budget(positions * unit, positions // 4 * unit), **limits),
                replace(lm.execution, **execution),
                TwinCrew(self.line, kind is LeadingEngine),
            )
            for kind, one, unit in (
                (LeadingEngine, lm, bytes_of(lm)),
                (FollowingEngine, other, bytes_of(other)),
            )
        )

    def step(self) -> list[Sequence]:
        """A step of both."""
        news = self.leader.step()
        self.catch_up()
        return news

    def catch_up(self) -> None:
        """Lets the follower do what it was told."""
        while self.line.messages:
            self.follower.obey(json.loads(self.line.messages.popleft()))


def bytes_of(lm: elm_mlx.LanguageModel) -> int:
    """The true bytes of a position in the caches of a loaded model."""
    return lm.config.kv_bytes_per_token(8 * lm.model.dtype.size)
