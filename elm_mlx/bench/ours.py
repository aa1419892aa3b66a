"""elm-mlx as it is measured: ids in and ids out, without text, with the kind of cache that a request gets."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import mlx.core as mx

from elm_mlx import LanguageModel
from elm_mlx.engine.cache.kv import RESERVE, KVCache, make_cache
from elm_mlx.engine.plain import generate
from elm_mlx.engine.prefill import prefill
from elm_mlx.engine.sampling import Sampler, Sampling


class Ours:
    """The Program (clock.py) of a loaded model."""

    def __init__(self, lm: LanguageModel) -> None:
        self.model, self.layers, self.execution = lm.model, lm.config.num_layers, lm.execution

    def make_cache(self, positions: int) -> list[KVCache]:
        return make_cache(self.layers, positions, reserve=positions)

    def read(self, ids: list[int], cache: Sequence[KVCache]) -> None:
        mx.eval(prefill(self.model, mx.array([ids]), cache, self.execution))

    def decode(self, prompt: list[int], sampler: Sampler | None, tokens: int) -> Generator[int, None, None]:
        cache = make_cache(self.layers, len(prompt) + tokens - 1, reserve=len(prompt) + RESERVE)
        return generate(
            self.model, prompt, cache, sampler or Sampler(Sampling()), max_tokens=tokens, execution=self.execution
        )

    def settle(self) -> None:
        mx.synchronize()
