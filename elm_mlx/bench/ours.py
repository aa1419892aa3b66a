"""elm-mlx as it is measured: the engine itself, without text and without threads. Nothing is reused, if not asked."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import mlx.core as mx

from elm_mlx import LanguageModel, Options
from elm_mlx.bench.engine_session import SharedSession, answered
from elm_mlx.device.memory import memory_limit
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.layer import Layer
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.prefill import prefill
from elm_mlx.models.guest import Guest


class Ours:
    """The Program (clock.py) of a loaded model. `submit` is how steps are submitted: early, late or auto. Answers are
    decoded with these `options`, else greedily, and with the draft of the model, if it was loaded with one: never as
    the model's files or its publisher say, so that figures of different models are of the same work."""

    def __init__(self, lm: LanguageModel, submit: str = "auto", options: Options | None = None) -> None:
        asked: Options = {**(options or {}), "plain": True}
        self.asked = replace(lm.request([0], 1, **asked), stop_ids=frozenset(), stopper=None)
        self.model, self.config, self.speculation = lm.model, lm.config, lm.speculation
        self.variants = lm.variants
        self.layers, self.execution = lm.config.num_layers, replace(lm.execution, submit=submit)

    def make_cache(self, positions: int) -> list[Layer]:
        """An empty cache with room for so many positions, of the kind that the options ask for."""
        return new_cache(self.model, self.layers, positions, reserve=positions, kind=self.asked.cache)

    def read(self, ids: list[int], cache: Sequence[Layer]) -> None:
        """Reads ids into a cache, up to the logits of the last one."""
        model = self.variants.of(self.asked.adapter)
        mx.eval(prefill(model, mx.array([ids]), cache, self.execution))

    def decode(self, prompt: list[int], tokens: int) -> Generator[int, None, None]:
        """The ids of an answer of so many tokens to one prompt, by the engine."""
        return answered(self.session(1), prompt, tokens)

    def session(self, rows: int, reuse: bool = False) -> OurSession:
        """A Session (batch.py) of an engine that answers at most `rows` requests at a time, in all of the memory."""
        config, bits = self.config, 8 * self.model.dtype.size
        own = self.model.sizes.bytes_of if isinstance(self.model, Guest) else None
        limits = Limits(config.context_length, config.kv_bytes_per_token(bits), Budget(memory_limit()), rows,
                        reuse=reuse, head_dim=config.head_dim, float_bits=bits, held=own)  # fmt: skip
        engine = Engine(self.model, self.layers, limits, self.execution, self.speculation)
        engine.variants.adapters = self.variants.adapters
        return OurSession(engine, self.asked)

    def settle(self) -> None:
        """Returns when nothing is being computed."""
        mx.synchronize()


class OurSession(SharedSession):
    """The Session (batch.py) of an engine that is its own, and ends with it."""

    def close(self) -> None:
        """Ends everything, and returns when nothing is being computed."""
        self.engine.close()
        mx.synchronize()
