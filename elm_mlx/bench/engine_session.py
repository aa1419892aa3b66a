"""An engine as it is measured: the requests of one measurement, step by step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import mlx.core as mx

from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import Sequence


class SharedSession:
    """The Session (batch.py) of an engine that goes on after it, whose requests are as `asked`. No id ends an answer
    early."""

    def __init__(self, engine: Engine, asked: Request) -> None:
        self.engine, self.asked = engine, asked
        self.told: dict[Sequence, list[int]] = {}  # of each: its number in the order of `add`, and tokens reported

    def add(self, prompt: list[int], tokens: int, keep: bool = True) -> Sequence:
        """Asks for so many tokens after a prompt. Without `keep` its caches do not stay for later prompts, nor where
        `asked` says so."""
        keep = keep and self.asked.keep
        sequence = self.engine.submit(replace(self.asked, prompt=tuple(prompt), max_tokens=tokens, keep=keep))
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


def answered(session: SharedSession, prompt: list[int], tokens: int) -> Generator[int, None, None]:
    """The ids of an answer of so many tokens to the one prompt of a session, which is then closed."""
    ids = session.add(prompt, tokens).ids
    try:
        for count in range(tokens):
            while len(ids) <= count:
                session.step()
            yield ids[count]
    finally:
        session.close()
