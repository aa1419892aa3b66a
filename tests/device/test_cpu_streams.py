"""On the CPU backend each core gets a stream: the same numbers, no copies, and a BLAS that knows its share."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.device import blas, cpu, release, shared_linear, thread_count
from elm_mlx.device.execution import Execution
from elm_mlx.device.shared_linear import SharedLinear
from elm_mlx.device.side_by_side import places
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.prefill import prefill

pytestmark = pytest.mark.skipif("config.getoption('--device') == 'gpu'", reason="policy of the CPU backend")

Blas = Callable[[int], list[int]]
each_family = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)


@pytest.fixture
def blas_of(monkeypatch: pytest.MonkeyPatch) -> Blas:
    """Stands for a BLAS that takes so many threads, and keeps what it is told; every matrix is worth a share. No model
    of another test computes with it."""

    def takes(number: int) -> list[int]:
        told: list[int] = []
        for module in (cpu, thread_count):
            monkeypatch.setattr(module, "blas_threads", lambda: (number, told.append))
        return told

    monkeypatch.setattr(thread_count, "fast_blas", lambda: "a fast one")
    monkeypatch.setattr(thread_count, "_in_use", WeakSet())
    monkeypatch.setattr(shared_linear, "LARGE", 0)
    return takes


@each_family
@pytest.mark.parametrize("number", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_shared_work_gives_the_plain_numbers_and_tokens(source: Path, blas_of: Blas, number: int) -> None:
    blas_of(number)
    plain = elm_mlx.load(source, cpu_policy="plain")
    release(plain.execution)
    shared = elm_mlx.load(source)
    assert isinstance(shared.model.embedding, SharedLinear)
    ids = checkpoints.prompt(40)
    assert shared.generate(ids, 12).tokens == plain.generate(ids, 12).tokens
    for length in (1, 40, 200):  # one chunk, several, the last of them shorter
        ids = checkpoints.prompt(length)
        assert mx.allclose(shared.logits(ids), plain.logits(ids), atol=1e-4).item()
        assert read(shared, ids) == pytest.approx(read(plain, ids), abs=1e-4)


def read(lm: elm_mlx.LanguageModel, ids: list[int]) -> list[float]:
    """The logits after `ids`, read as a request reads them, on chunks that differ from length to length."""
    cache = make_cache(lm.config.num_layers, len(ids))
    logits = prefill(lm.model, mx.array([ids]), cache, lm.execution)
    values: list[float] = logits[0].tolist()  # type: ignore[assignment]
    return values


@each_family
@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_every_chunk_finds_what_the_one_before_wrote(source: Path, blas_of: Blas, times: int) -> None:
    """A prompt again and again, on three streams at once, where a lost wait would read what is not written yet."""
    blas_of(3)
    lm = elm_mlx.load(source)
    ids = checkpoints.prompt(300)
    expected = read(lm, ids)
    assert all(read(lm, ids) == expected for _ in range(times))


@each_family
def test_shared_steps_write_in_place(source: Path, blas_of: Blas) -> None:
    """A step needs no second cache, whichever stream it runs on."""
    blas_of(2)
    lm = elm_mlx.load(source)
    cache = make_cache(lm.config.num_layers, 65_536, reserve=65_536)
    mx.eval(prefill(lm.model, mx.array([checkpoints.prompt(200)]), cache, lm.execution))
    held = sum(array.nbytes for layer in cache for array in layer.arrays())
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(8):
        mx.eval(lm.model.last_hidden(mx.array([[5]]), cache))
    assert mx.get_peak_memory() - before <= 0.01 * held + 1e6


def test_another_thread_than_the_loading_one_may_generate(openelm: Path, blas_of: Blas) -> None:
    blas_of(2)
    lm = elm_mlx.load(openelm)
    expected, said = lm.generate(checkpoints.prompt(150), 8).tokens, []
    readers = [threading.Thread(target=lambda: said.append(lm.generate(checkpoints.prompt(150), 8).tokens))
               for _ in range(2)]  # fmt: skip
    for thread in readers:
        thread.start()
        thread.join()
    assert said == [expected] * 2


def test_a_shared_blas_takes_one_thread_and_its_own_number_otherwise(openelm: Path, blas_of: Blas) -> None:
    told = blas_of(2)
    assert len(elm_mlx.load(openelm).execution.streams) == 2
    assert not elm_mlx.load(openelm, cpu_policy="plain").execution.streams
    assert told == [1, 2]


@pytest.mark.parametrize("number", [1, cpu.MOST_STREAMS + 1])
def test_one_core_and_many_are_left_to_the_blas(openelm: Path, blas_of: Blas, number: int) -> None:
    told = blas_of(number)
    lm = elm_mlx.load(openelm)
    assert not lm.execution.streams
    assert not isinstance(lm.model.embedding, SharedLinear)
    assert told == [number]


def test_the_first_model_decides_the_blas_s_threads_and_later_ones_are_told(openelm: Path, blas_of: Blas) -> None:
    told = blas_of(2)
    first, second = elm_mlx.load(openelm), elm_mlx.load(openelm)
    plain = elm_mlx.load(openelm, cpu_policy="plain")
    assert told == [1]
    assert first.notice == second.notice == cpu.NOTICE
    assert plain.notice == f"{cpu.NOTICE} {thread_count.KEPT.format('one thread')}"
    assert [len(lm.execution.streams) for lm in (first, second, plain)] == [2, 2, 0]


def test_beside_a_blas_with_several_threads_no_streams_are_opened(openelm: Path, blas_of: Blas) -> None:
    told = blas_of(2)
    plain, later = elm_mlx.load(openelm, cpu_policy="plain"), elm_mlx.load(openelm)
    assert told == [2]
    assert (plain.notice, later.notice) == (cpu.NOTICE, f"{cpu.NOTICE} {thread_count.KEPT.format('2 threads')}")
    assert not later.execution.streams
    assert later.model.dtype == mx.float32  # all else is as its policy says


def test_when_the_last_model_is_closed_the_next_one_decides(openelm: Path, blas_of: Blas) -> None:
    told = blas_of(2)
    models = [elm_mlx.load(openelm) for _ in range(2)]
    release(models[0].execution)
    release(models[0].execution)
    assert "stays at" in str(elm_mlx.load(openelm, cpu_policy="plain").notice)
    release(models[1].execution)
    assert elm_mlx.load(openelm, cpu_policy="plain").notice == cpu.NOTICE
    assert told == [1, 2]


def test_models_that_were_dropped_decide_nothing(openelm: Path, blas_of: Blas) -> None:
    told = blas_of(2)
    dropped = elm_mlx.load(openelm)
    dropped.itself = dropped  # type: ignore[attr-defined]  # even where only the garbage collector finds it
    del dropped
    gc.collect()
    assert elm_mlx.load(openelm, cpu_policy="plain").notice == cpu.NOTICE
    assert told == [1, 2]


def test_the_reference_blas_has_no_threads_that_a_model_could_keep(
    openelm: Path, blas_of: Blas, monkeypatch: pytest.MonkeyPatch
) -> None:
    blas_of(2)
    monkeypatch.setattr(thread_count, "fast_blas", lambda: None)
    plain, shared = elm_mlx.load(openelm, cpu_policy="plain"), elm_mlx.load(openelm)
    assert plain.notice == shared.notice == cpu.NOTICE
    assert len(shared.execution.streams) == 2


def test_what_only_the_process_shares_makes_no_difference_between_executions() -> None:
    assert Execution(threads=thread_count.ThreadsInUse(1)) == Execution()
    release(Execution())  # on a GPU there is nothing to let go of


def test_a_large_product_is_shared_unless_the_streams_compute_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over: list[mx.array] = []
    monkeypatch.setattr(
        mx, "split", lambda weight, *_, **__: handed_over.append(weight) or [weight[:, :2], weight[:, 2:]]
    )
    weight, streams = mx.arange(12.0).reshape(4, 3), [mx.new_stream(mx.cpu) for _ in range(2)]
    small = SharedLinear(weight, streams)
    monkeypatch.setattr(shared_linear, "LARGE", 0)
    large = SharedLinear(weight, streams)
    x = mx.ones((1, 2, 3))
    for count, shared in ((1, 1), (2, 1), (1, 2)):
        for place in places(streams, count):
            with place:
                assert small(x).tolist() == large(x).tolist() == (x @ weight.T).tolist()
        assert len(handed_over) == shared


def test_only_a_blas_that_we_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    library = SimpleNamespace(openblas_get_num_threads=lambda: 2, openblas_set_num_threads=told.append)
    monkeypatch.setattr(blas, "fast_blas", lambda: "libopenblas.so.0")
    ask = blas.blas_threads.__wrapped__
    for loaded, number in (({}, 1), ({"libopenblas.so.0": SimpleNamespace()}, 1), ({"libopenblas.so.0": library}, 2)):
        monkeypatch.setattr(blas, "_loaded", loaded)
        found, tell = ask()
        assert found == number
        tell(7)
    assert told == [7]
