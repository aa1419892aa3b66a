"""elm-mlx as it is measured: the engine itself, without text and without threads. Nothing is reused."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import mlx.core as mx

from elm_mlx import LanguageModel
from elm_mlx.device.memory import memory_limit
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kv import RESERVE, KVCache, make_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.plain import generate
from elm_mlx.engine.prefill import prefill
from elm_mlx.engine.request import Request
from elm_mlx.engine.sampling import Sampler, Sampling


class Ours:
    """The Program (clock.py) of a loaded model. `submit` is how steps are submitted: early, late or auto."""

    def __init__(self, lm: LanguageModel, submit: str = "auto") -> None:
        self.model, self.config = lm.model, lm.config
        self.layers, self.execution = lm.config.num_layers, replace(lm.execution, submit=submit)

    def make_cache(self, positions: int) -> list[KVCache]:
        return make_cache(self.layers, positions, reserve=positions)

    def read(self, ids: list[int], cache: Sequence[KVCache]) -> None:
        mx.eval(prefill(self.model, mx.array([ids]), cache, self.execution))

    def decode(self, prompt: list[int], sampler: Sampler | None, tokens: int) -> Generator[int, None, None]:
        cache = make_cache(self.layers, len(prompt) + tokens - 1, reserve=len(prompt) + RESERVE)
        return generate(
            self.model, prompt, cache, sampler or Sampler(Sampling()), max_tokens=tokens, execution=self.execution
        )

    def session(self, rows: int) -> OurSession:
        """A Session (batch.py) of an engine that answers at most `rows` requests at a time, within all of the memory."""
        per_token = self.config.kv_bytes_per_token(8 * self.model.dtype.size)
        limits = Limits(self.config.context_length, per_token, Budget(memory_limit()), rows, reuse=False)
        return OurSession(Engine(self.model, self.layers, limits, self.execution))

    def settle(self) -> None:
        mx.synchronize()


class OurSession:
    """The Session (batch.py) of an Engine. No id ends an answer early."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answered: dict[int, int] = {}  # tokens, by the number of the sequence

    def add(self, prompt: list[int], tokens: int) -> None:
        sequence = self.engine.submit(Request(tuple(prompt), max_tokens=tokens))
        self.answered[sequence.number] = 0

    def step(self) -> list[int]:
        news = []
        for sequence in self.engine.step():
            if sequence.error:
                raise sequence.error
            if len(sequence.ids) > self.answered[sequence.number]:
                self.answered[sequence.number] += 1
                news.append(sequence.number - 1)  # the engine counts from 1
        return news

    def close(self) -> None:
        self.engine.close()
        mx.synchronize()
