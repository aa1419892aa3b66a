"""elm-mlx as it is measured where several ranks hold the model: by rank 0's own engine, whose steps all of them take.

So a prompt is timed with the drawing of its first id, which the other ranks hear of by a collective.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import replace

import mlx.core as mx

from elm_mlx import LanguageModel, Options
from elm_mlx.bench.engine_session import SharedSession, answered
from elm_mlx.engine.pace import Pace


class OverRanks:
    """The Program (clock.py) of a model that several ranks hold. `submit` is how steps are submitted: early, late or
    auto. Answers are decoded with these `options`, else greedily, never as the model's files say."""

    def __init__(self, lm: LanguageModel, submit: str = "auto", options: Options | None = None) -> None:
        asked: Options = {**(options or {}), "plain": True}
        asks = lm.request([0], 1, **asked)
        self.asked = replace(asks, stop_ids=frozenset(), stopper=None, find=False, keep=False)
        self.config, self.engine = lm.config, lm.engine
        self.engine.pace = Pace(submit)

    def make_cache(self, positions: int) -> None:
        """There is none to make: the engine has its own."""

    def read(self, ids: list[int], cache: None) -> None:
        """Reads ids, up to the first id after them."""
        deque(self.decode(ids, 1), maxlen=0)

    def decode(self, prompt: list[int], tokens: int) -> Generator[int, None, None]:
        """The ids of an answer of so many tokens to one prompt."""
        return answered(self.session(1), prompt, tokens)

    def session(self, rows: int) -> SharedSession:
        """A Session (batch.py) of the engine, which answers as many requests at a time as it was loaded for."""
        assert rows <= self.engine.limits.rows
        return SharedSession(self.engine, self.asked)

    def settle(self) -> None:
        """Returns when nothing is being computed."""
        mx.synchronize()
