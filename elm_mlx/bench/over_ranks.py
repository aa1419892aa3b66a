"""elm-mlx as it is measured where several ranks hold the model: by rank 0's own engine, whose steps all of them take.

So a prompt is timed with the drawing of its first id, which the other ranks hear of by a collective.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import replace

import mlx.core as mx

from elm_mlx import LanguageModel, Options
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.pace import Pace
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence


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
        session = self.session(1)
        ids = session.add(prompt, tokens).ids
        try:
            for count in range(tokens):
                while len(ids) <= count:
                    session.step()
                yield ids[count]
        finally:
            session.close()

    def session(self, rows: int) -> SharedSession:
        """A Session (batch.py) of the engine, which answers as many requests at a time as it was loaded for."""
        assert rows <= self.engine.limits.rows
        return SharedSession(self.engine, self.asked)

    def settle(self) -> None:
        """Returns when nothing is being computed."""
        mx.synchronize()


class SharedSession:
    """The Session (batch.py) of an engine that goes on after it. No id ends an answer early."""

    def __init__(self, engine: Engine, asked: Request) -> None:
        self.engine, self.asked = engine, asked
        self.told: dict[Sequence, list[int]] = {}  # of each: its number in the order of `add`, and tokens reported

    def add(self, prompt: list[int], tokens: int) -> Sequence:
        """Asks for so many tokens after a prompt."""
        sequence = self.engine.submit(replace(self.asked, prompt=tuple(prompt), max_tokens=tokens))
        assert sequence.room == tokens, "the context has no room for the answer"
        self.told[sequence] = [len(self.told), 0]
        return sequence

    def step(self) -> list[int]:
        """Takes one step, and returns the numbers of the requests that got a token. Raises what ended one."""
        longer = []
        for sequence in self.engine.step():
            if sequence.error:
                raise sequence.error
            told = self.told[sequence]
            if len(sequence.ids) > told[1]:
                told[1] += 1
                longer.append(told[0])
        return longer

    def close(self) -> None:
        """Ends what is unanswered, and returns when nothing is being computed."""
        for sequence in self.told:
            self.engine.cancel(sequence)
        while self.engine.has_work:
            self.engine.step()
        mx.synchronize()
