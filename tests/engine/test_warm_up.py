"""Whether the compiled step runs is found out by running one, and a model that cannot is left to run plainly."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest

from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.warm_up import warm_up

DOUBTFUL = Execution(try_first=True, chunk=7)


class Model:
    """A model of no layers whose step fails with `error`, if there is one; it counts its steps."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.steps, self.compiled = error, 0, True

    def hidden(self, ids: mx.array, cache: Sequence[KVCache] | None) -> mx.array:
        return mx.zeros((*ids.shape, 4))

    def last_hidden(self, ids: mx.array, cache: Sequence[KVCache]) -> mx.array:
        self.steps += 1
        if self.error:
            raise self.error
        return mx.zeros((1, 4))

    def head(self, states: mx.array) -> mx.array:
        return states

    def set_compiled(self, compiled: bool) -> None:
        self.compiled = compiled


def test_a_step_that_runs_keeps_the_model_compiled() -> None:
    model = Model()
    assert warm_up(model, 2, DOUBTFUL) == DOUBTFUL
    assert (model.steps, model.compiled) == (1, True)


def test_a_compiler_that_fails_leaves_the_model_to_run_plainly_and_all_else_as_it_was() -> None:
    model = Model(RuntimeError("the compiler failed"))
    assert warm_up(model, 2, DOUBTFUL) == Execution(compiled=False, try_first=True, chunk=7)
    assert not model.compiled


def test_any_other_failure_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        warm_up(Model(ZeroDivisionError()), 2, DOUBTFUL)


@pytest.mark.parametrize("certain", [Execution(), Execution(compiled=False, try_first=True)])
def test_without_a_doubt_or_without_compiling_no_step_is_spent(certain: Execution) -> None:
    model = Model(RuntimeError())
    assert warm_up(model, 2, certain) is certain
    assert model.steps == 0
