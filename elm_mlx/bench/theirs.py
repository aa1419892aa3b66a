"""mlx-lm as it is measured: its own loops over its own caches, new ones for each run."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import mlx.core as mx

import elm_mlx
from elm_mlx.bench.batch import answer
from elm_mlx.bench.cases import Case
from elm_mlx.bench.clock import sample
from elm_mlx.bench.loads import Arrival, Load


class Theirs:
    """The Program (clock.py) of mlx-lm, which is imported when the first one is made; it answers requests."""

    def __init__(self, directory: Path) -> None:
        import mlx_lm
        from mlx_lm.generate import BatchGenerator, generate_step, generation_stream
        from mlx_lm.models.cache import make_prompt_cache
        from mlx_lm.utils import load_model

        self.steps, self.stream, self.make_prompt_cache = generate_step, generation_stream, make_prompt_cache
        self.batch_generator = BatchGenerator
        begun = time.perf_counter()
        self.model, _ = load_model(directory)
        self.facts = {
            "version": mlx_lm.__version__,
            "load_s": time.perf_counter() - begun,
            "computed_in": str(self.model(mx.array([[0]])).dtype).removeprefix("mlx.core."),
            "blas": elm_mlx.fast_blas(),
            "torch": bool(sys.modules.get("torch")),
        }

    def answer(self, request: dict[str, Any]) -> Any:
        """A sample of a case, the run of a load, or the judgement of our tokens."""
        if "case" in request:
            return sample(self, Case(**request["case"]), request["ids"])
        if "arrivals" in request:
            load = Load(**request | {"arrivals": [Arrival(*each) for each in request["arrivals"]]})
            return answer(self.session(load.rows), load)
        return self.judge(**request)

    def make_cache(self, positions: int) -> Any:
        return self.make_prompt_cache(self.model)

    def read(self, ids: list[int], cache: Any) -> None:
        steps = self.steps(mx.array(ids), self.model, max_tokens=0, prompt_cache=cache)
        deque(steps, maxlen=0)

    def decode(self, prompt: list[int], tokens: int) -> Generator[Any, None, None]:
        return self.steps(mx.array(prompt), self.model, max_tokens=tokens)

    def settle(self) -> None:
        mx.synchronize(self.stream)  # mlx-lm submits one step more than it gives

    def session(self, rows: int) -> TheirSession:
        """A Session (batch.py) of mlx-lm's BatchGenerator, which answers at most `rows` requests at a time."""
        return TheirSession(self.batch_generator(self.model, completion_batch_size=rows, prefill_batch_size=rows))

    def judge(self, prompt: list[int], tokens: list[int]) -> tuple[list[int], float]:
        """(mlx-lm's greedy tokens after `prompt`, how far at most its logit of one of `tokens`, given those before, is
        below its best, as a share of the largest logit)."""
        greedy = [token for token, _ in self.decode(prompt, len(tokens))]
        logits = self.model(mx.array([prompt + tokens[:-1]]))[0, len(prompt) - 1 :].astype(mx.float32)  # [tokens, V]
        ours = mx.take_along_axis(logits, mx.array(tokens)[:, None], axis=-1)
        below = mx.max(mx.max(logits, axis=-1, keepdims=True) - ours) / mx.max(mx.abs(logits))
        return greedy, float(below.item())  # type: ignore[arg-type]


class TheirSession:
    """The Session (batch.py) of one of mlx-lm's BatchGenerators. No id ends an answer early."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def add(self, prompt: list[int], tokens: int) -> None:
        self.generator.insert([prompt], [tokens])

    def step(self) -> list[int]:
        _, answered = self.generator.next()
        return [one.uid for one in answered]  # numbers from 0, in the order of `insert`

    def close(self) -> None:
        mx.synchronize(self.generator.stream)
        self.generator.close()
