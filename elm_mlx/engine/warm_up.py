"""Finds out whether a model's compiled step runs on this machine, by running one."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import mlx.core as mx

from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.decodes import Decodes


class Compiles(Decodes, Protocol):
    """A model whose steps run compiled or uncompiled, with the same results."""

    def set_compiled(self, compiled: bool) -> None:
        """Sets which of the two steps runs."""
        ...


def warm_up(model: Compiles, layers: int, execution: Execution) -> Execution:
    """Tries a compiled step where `execution` asks for it, and sets the model to uncompiled steps where that fails.

    Returns the Execution that the model then runs by. MLX raises RuntimeError where its compiler, or its folder of
    built kernels, does not work.
    """
    if not (execution.compiled and execution.try_first):
        return execution
    try:
        mx.eval(first_step(model, layers))
    except RuntimeError:
        model.set_compiled(False)
        return replace(execution, compiled=False)
    return execution


def first_step(model: Decodes, layers: int) -> mx.array:
    """Computes a prompt of two ids and one step after it, which together need every kernel: the state [1, E]."""
    cache = new_cache(model, layers, 3)
    model.hidden(mx.array([[0, 0]]), cache)
    return model.last_hidden(mx.array([[0]]), cache)
