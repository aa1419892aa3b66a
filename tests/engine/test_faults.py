"""Whatever fails while a step is computed, its requests end with the error, and the engine lives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.engines import check_answers, make_engine

import elm_mlx
from elm_mlx.config.generation import Sampling
from elm_mlx.engine import engine as engine_module
from elm_mlx.engine import prefill
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import ERROR, Sequence

CALLS = [
    *((mx, name) for name in (
        "argmax", "argpartition", "array", "async_eval", "broadcast_to", "clear_cache", "concatenate", "contiguous",
        "eval", "get_peak_memory", "max", "pad", "sigmoid", "sort", "split", "stack", "take_along_axis", "vmap",
        "zeros",
    )),
    *((mx.random, name) for name in ("categorical", "split")),
    *((mx.fast, name) for name in ("rms_norm", "rope", "scaled_dot_product_attention")),
]  # fmt: skip


class Faults:
    """Counts the calls into MLX, and lets the one with number `at` fail."""

    def __init__(self) -> None:
        self.count, self.at = 0, -1

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise RuntimeError("[METAL] Command buffer execution failed")
            return call(*args, **options)

        return counted


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Every function of MLX that a step calls, watched."""
    found = Faults()
    for place, name in CALLS:
        call = getattr(place, name)
        if not isinstance(call, type):  # mx.array is a class, which MLX's own functions are given
            monkeypatch.setattr(place, name, found.wrap(call))
    yield found
    found.at = -1


def drive(engine: Engine) -> list[Sequence]:
    """Runs four requests, two at a time, the fourth begun as the first; a failed step is told to the engine."""
    first = tuple(checkpoints.prompt(20))
    requests = [
        Request(first, 4),
        Request(tuple(checkpoints.prompt(7, seed=1)), 5, Sampling(1.0, top_k=20), seed=1),
        Request(tuple(checkpoints.prompt(9, seed=2)), 3, Sampling(0.7), seed=2),
        Request((*first, 5), 2),
    ]
    sequences = [engine.submit(request) for request in requests]
    while engine.has_work:
        try:
            engine.step()
        except RuntimeError as error:
            engine.fail(error)
    return sequences


def check_each_fault(lm: elm_mlx.LanguageModel, faults: Faults, chunk: int, choose: Callable[[int], list[int]]) -> None:
    begun = faults.count
    check_answers(lm, drive(make_engine(lm, rows=2, chunk=chunk)))
    calls = faults.count - begun
    for number in choose(calls):
        engine = make_engine(lm, rows=2, chunk=chunk)
        faults.count, faults.at = 0, number
        try:
            sequences = drive(engine)
        except RuntimeError:  # in `submit`, which raises it to the caller, or while the engine gives up a failed step
            assert number < 20 or not engine.batch.groups
            continue
        finally:
            faults.at = -1
        failed = [one for one in sequences if one.finish == ERROR]
        assert len(failed) <= 3
        assert all("Command buffer" in str(one.error) for one in failed)
        check_answers(lm, [one for one in sequences if one not in failed])
        assert not engine.active
        assert engine.limits.budget.reserved == 0


CHUNKS = pytest.mark.parametrize("chunk", [16, 64], ids=["alone", "together"])  # how the first two prompts are read


@CHUNKS
@pytest.mark.parametrize("source", ["openelm"], indirect=True)
def test_a_call_that_fails_ends_the_requests_of_its_step_alone(
    lm: elm_mlx.LanguageModel, faults: Faults, chunk: int
) -> None:
    check_each_fault(lm, faults, chunk, lambda calls: random.Random(0).sample(range(1, calls), 12))


@CHUNKS
@pytest.mark.soak
@pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
def test_every_call_that_fails_ends_the_requests_of_its_step_alone(
    lm: elm_mlx.LanguageModel, faults: Faults, chunk: int
) -> None:
    check_each_fault(lm, faults, chunk, lambda calls: list(range(1, calls)))


@pytest.mark.parametrize("source", ["openelm"], indirect=True)
@pytest.mark.parametrize(
    ("count", "where", "name"), [(1, prefill.Reading, "advance"), (3, engine_module, "read_together")]
)
def test_prompts_whose_reading_fails_end_alone(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int, where: Any, name: str
) -> None:
    """One that is read in chunks, or several in one pass, beside two rows that have their ids all the same."""
    engine = make_engine(lm, rows=2 + count, chunk=64)
    running = [engine.submit(Request(tuple(checkpoints.prompt(9, seed=n)), 12, Sampling(1.0), seed=n)) for n in (1, 2)]
    while not all(one.ids for one in running):
        engine.step()
    reserved = engine.limits.budget.reserved

    def fails(*_: Any) -> Any:
        raise RuntimeError("[METAL] Command buffer execution failed")

    failing = [engine.submit(Request(tuple(checkpoints.prompt(8, seed=5 + n)), 4)) for n in range(count)]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(RuntimeError) as raised:
            engine.step()
    assert set(engine.fail(raised.value)) == set(failing)
    assert {one.finish for one in failing} == {ERROR}
    assert (engine.reading, engine.running, engine.limits.budget.reserved) == (None, running, reserved)
    later = engine.submit(Request(tuple(checkpoints.prompt(8, seed=5)), 4))
    while engine.has_work:
        engine.step()
    check_answers(lm, [*running, later])
    assert engine.limits.budget.reserved == engine.limits.budget.idle == 0
