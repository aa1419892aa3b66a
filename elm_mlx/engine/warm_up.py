"""Whether a model's compiled step runs on this machine, found out by running one."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.decodes import Decodes


class Compiles(Decodes, Protocol):
    """A model whose decode step runs compiled or plainly, with the same results."""

    def set_compiled(self, compiled: bool) -> None:
        """Which of the two it is from now on."""
        ...


def warm_up(model: Compiles, layers: int, execution: Execution) -> Execution:
    """Runs a compiled step where `execution` doubts it, and leaves the model to run plainly where that fails.

    Returns how the model runs from now on. MLX raises RuntimeError where its compiler, or its folder of built kernels,
    does not work.
    """
    if not (execution.compiled and execution.warm_up):
        return execution
    try:
        mx.eval(first_step(model, layers))
    except RuntimeError:
        model.set_compiled(False)
        return replace(execution, compiled=False)
    return execution


def first_step(model: Decodes, layers: int) -> mx.array:
    """A prompt of two ids and one step after it, which between them need every kernel: [1, E]."""
    cache = make_cache(layers, 3)
    model.hidden(mx.array([[0, 0]]), cache)
    return model.last_hidden(mx.array([[0]]), cache)
