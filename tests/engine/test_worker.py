"""The engine on the device thread: what fails ends those whom it concerns, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints
from helpers.shallow import shallow

import elm_mlx
from elm_mlx.engine import worker
from elm_mlx.engine.drawn import Drawn
from elm_mlx.engine.engine import Engine
from elm_mlx.engine.handle import Handle
from elm_mlx.engine.worker import Worker
from elm_mlx.errors import Cancelled, EngineStopped, NotEnoughMemory, QueueFull, RequestFailed

PATIENCE_S = 60  # with another thread, on a busy machine
OUTBOX = 32  # ids that may wait for a reader here


@pytest.fixture(autouse=True)
def small_outboxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elm_mlx.api.stream.OUTBOX", OUTBOX)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers never end by themselves, with a long context."""
    config = shallow(checkpoints.OPENELM) | {"eos_token_id": None, "max_context_length": 4096}
    return checkpoints.write(tmp_path_factory.mktemp("endless") / "model", config)


@pytest.fixture
def lm(endless: Path) -> Iterator[elm_mlx.LanguageModel]:
    """A model of the test's own: three rows, and two requests may wait."""
    with elm_mlx.load(endless, rows=3, queue=2) as one:
        yield one


def worker_of(lm: elm_mlx.LanguageModel) -> Worker:
    return lm._worker


def inject(lm: elm_mlx.LanguageModel, *steps: Callable[[], Any] | None) -> None:
    """Replaces the next steps of the engine by these functions; None is a usual step."""
    queue = list(steps)

    def patch(engine: Engine) -> None:
        usual = engine.step

        def step() -> Any:
            instead = queue.pop(0) if queue else None
            return instead() if instead else usual()

        engine.step = step  # type: ignore[method-assign]

    worker_of(lm).call(patch)


def fail() -> None:
    raise RuntimeError("[metal] out of memory")


def wait_at(gate: threading.Event) -> list[Any]:
    """A step that does nothing before the gate opens."""
    gate.wait(PATIENCE_S)
    return []


def wait_until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def test_a_failed_step_ends_its_rows_with_the_cause_and_the_next_request_succeeds(lm: elm_mlx.LanguageModel) -> None:
    prompt = checkpoints.prompt(12)
    expected = lm.generate(prompt, 8).tokens
    inject(lm, None, None, None, fail)
    with pytest.raises(RequestFailed, match="out of memory") as caught:
        lm.generate(prompt, 8, reuse=False)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert lm.generate(prompt, 8).tokens == expected


def test_the_device_thread_waits_for_readers_once_a_request_at_most(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=waits.append, perf_counter=time.perf_counter))
    threads = [threading.Thread(target=lambda n=n: list(lm.stream(checkpoints.prompt(n), 40))) for n in (10, 11, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(waits) <= 3


@pytest.mark.parametrize("rest", [0.0, 1000.0])
def test_readers_are_woken_between_building_a_step_and_handing_it_over_and_not_too_often(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch, rest: float
) -> None:
    monkeypatch.setattr(worker, "REST_S", rest)
    events: list[str] = []

    def noted(name: str, usual: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            events.append(name)
            return usual(*given)

        return call

    monkeypatch.setattr(lm.model, "head", noted("built", lm.model.head))
    monkeypatch.setattr(Drawn, "submit", noted("handed over", Drawn.submit))
    monkeypatch.setattr(Handle, "wake", noted("woken", Handle.wake))
    assert len(lm.generate(checkpoints.prompt(8), 40, reuse=False).tokens) == 40
    assert events[:3] == ["built", "woken", "woken"]  # the prompt is read; its first id comes, before any step is built
    # A command, be it a finalizer's, has readers woken before it; seldom so often.
    threes = [events[n : n + 3] for n in range(len(events))]
    assert (["built", "woken", "handed over"] in threes) is (rest == 0)
    assert events[-1] == "woken"


def test_those_who_wait_go_on_after_a_failed_step(lm: elm_mlx.LanguageModel) -> None:
    prompts = [checkpoints.prompt(n) for n in (10, 11, 12, 13)]
    expected = [lm.generate(prompt, 8).tokens for prompt in prompts]
    gate = threading.Event()
    inject(lm, lambda: wait_at(gate), *[None] * 6, fail)
    streams = [lm.submit(prompt, 8, reuse=False) for prompt in prompts]
    gate.set()
    got = []
    for stream in streams:
        try:
            got.append(stream.result(PATIENCE_S).tokens)
        except RequestFailed:
            got.append(None)
    assert None in got
    assert got[-1] == expected[-1]  # there are three rows: it waited
    assert all(tokens in (None, right) for tokens, right in zip(got, expected, strict=True))


def test_two_failures_in_a_row_stop_the_engine_for_everybody_and_no_other_model(
    lm: elm_mlx.LanguageModel, endless: Path
) -> None:
    inject(lm, None, fail, fail)
    streams = [lm.submit(checkpoints.prompt(8), 50) for _ in range(5)]
    ends = {type(caught(stream)) for stream in streams}
    assert EngineStopped in ends
    assert ends <= {EngineStopped, RequestFailed}
    with pytest.raises(EngineStopped, match="twice in a row"):
        lm.generate("Hi", 3)
    with pytest.raises(EngineStopped):
        lm.logits([1, 2])
    with elm_mlx.load(endless) as other:
        assert len(other.generate("Hi", 3).tokens) == 3


def test_a_failure_between_good_steps_stops_nothing(lm: elm_mlx.LanguageModel) -> None:
    for _ in range(3):
        inject(lm, *[None] * 4, fail)  # the prompt is read, its first id, a step is begun, its id
        with pytest.raises(RequestFailed):
            lm.generate(checkpoints.prompt(8), 8, reuse=False)
    assert len(lm.generate(checkpoints.prompt(8), 8).tokens) == 8


def test_prompts_that_can_be_read_do_not_keep_a_model_alive_that_cannot_decode(lm: elm_mlx.LanguageModel) -> None:
    for _ in range(2):
        inject(lm, None, fail)
        with pytest.raises((RequestFailed, EngineStopped)):
            lm.generate(checkpoints.prompt(8), 8, reuse=False)
    with pytest.raises(EngineStopped, match="twice in a row"):
        lm.generate(checkpoints.prompt(8), 1)


def caught(stream: elm_mlx.Stream) -> BaseException:
    with pytest.raises(Exception) as found:
        stream.result(PATIENCE_S)
    return found.value


def test_a_full_queue_refuses_at_once_and_takes_again_when_one_has_ended(lm: elm_mlx.LanguageModel) -> None:
    gate = threading.Event()
    inject(lm, lambda: wait_at(gate))
    streams = [lm.submit("Hi", 4) for _ in range(5)]
    with pytest.raises(QueueFull, match="5 requests"):
        lm.submit("Hi", 3)
    batch = lm.batch(["Hi"] * 20, 3)  # which keeps its own number small, and never finds the queue full
    gate.set()
    assert [len(done.tokens) for done in batch] == [3] * 20
    for stream in streams:
        assert len(stream.result(PATIENCE_S).tokens) == 4
    assert lm.submit("Hi", 1).result(PATIENCE_S).tokens


def test_what_can_never_fit_is_refused_before_it_is_queued(endless: Path) -> None:
    config = elm_mlx.info(endless)
    with elm_mlx.load(endless, cache_bytes=100 * 2 * config.kv_bytes_per_token) as lm:
        with pytest.raises(NotEnoughMemory) as refused:
            lm.submit(checkpoints.prompt(20), 1000)
        assert refused.value.needed > refused.value.available > 0
        assert lm.generate(checkpoints.prompt(20), 20).stats.max_tokens == 20


def test_a_handle_that_nobody_reads_ends_with_the_same_ids_as_one_that_is_read(lm: elm_mlx.LanguageModel) -> None:
    long = 2 * OUTBOX
    unread = lm.submit(checkpoints.prompt(9), long)
    read = [piece.token for piece in lm.stream(checkpoints.prompt(9), long)]
    wait_until(lambda: unread.completion.finish_reason == "length")
    assert unread.completion.tokens == read == unread.result().tokens
    assert unread.completion.stats.generated_tokens == long


@pytest.mark.slow
def test_a_reader_that_stalls_pauses_its_own_row_alone_and_loses_nothing(lm: elm_mlx.LanguageModel) -> None:
    expected = lm.generate(checkpoints.prompt(9), 3 * OUTBOX, reuse=False).tokens
    stalled = lm.stream(checkpoints.prompt(9), 3 * OUTBOX, reuse=False)
    first = next(stalled)
    sequence = stalled._handle.sequence
    assert sequence
    wait_until(lambda: sequence.is_paused)
    other = lm.generate(checkpoints.prompt(10), 2 * OUTBOX)
    assert len(other.tokens) == 2 * OUTBOX
    assert len(sequence.ids) <= OUTBOX + 2  # one may have been on its way
    assert [first.token, *(piece.token for piece in stalled)] == expected


def test_waiting_for_a_stalled_answer_lets_it_go_on(lm: elm_mlx.LanguageModel) -> None:
    stalled = lm.stream(checkpoints.prompt(9), 2 * OUTBOX)
    next(stalled)
    wait_until(lambda: stalled._handle.sequence and stalled._handle.sequence.is_paused)
    assert len(stalled.result(PATIENCE_S).tokens) == 2 * OUTBOX


def test_a_cancel_ends_a_paused_a_waiting_and_a_running_request(lm: elm_mlx.LanguageModel) -> None:
    paused = lm.stream(checkpoints.prompt(9), 3 * OUTBOX)
    next(paused)
    wait_until(lambda: paused._handle.sequence and paused._handle.sequence.is_paused)
    others = [lm.submit(checkpoints.prompt(9), 4000) for _ in range(4)]  # two run, two wait
    for stream in (paused, *others):
        stream.cancel()
        assert isinstance(caught(stream), Cancelled)
        assert list(stream) == []
    engine = worker_of(lm).call(lambda engine: (len(engine.active), engine.limits.budget.reserved))
    assert engine == (0, 0)


def test_one_wake_up_a_step_for_all_readers_of_a_loop(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes: list[int] = []
    steps: list[int] = []

    def count(engine: Engine) -> None:
        step = engine.step
        engine.step = lambda: (steps.append(1), step())[1]  # type: ignore[method-assign]

    worker_of(lm).call(count)

    async def read(n: int) -> list[int]:
        return [piece.token async for piece in lm.astream(checkpoints.prompt(n), 60)]

    async def main() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        usual = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda call, *them: (wakes.append(len(*them)), usual(call, *them))[1]  # type: ignore[method-assign]
        return await asyncio.gather(*(read(n) for n in (9, 10, 11)))

    together = asyncio.run(main())
    assert together == [lm.generate(checkpoints.prompt(n), 60).tokens for n in (9, 10, 11)]
    assert max(wakes) == 3
    assert len(wakes) <= len(steps)


def test_nobody_is_looked_for_where_nobody_waits(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a lock is taken: an answer that is not waited for costs a look at two lists a step."""
    monkeypatch.setattr(Handle, "_wake", lambda *_: pytest.fail("nobody waits"))
    stream = lm.submit(checkpoints.prompt(9), 20)
    wait_until(lambda: stream.completion.finish_reason == "length")


class Faults:
    """Counts the calls into MLX, and has one of them fail."""

    def __init__(self) -> None:
        self.calls, self.fails_at = 0, 0

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.fails_at:
                raise RuntimeError("[metal] injected")
            return function(*args, **kwargs)

        return call

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module in (mx, mx.fast, mx.random):
            for name, value in list(vars(module).items()):
                if type(value).__name__ == "nb_func":
                    patch.setattr(module, name, self.watched(value))


@pytest.mark.parametrize("rounds", [20, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_fault_in_any_call_into_mlx_fails_requests_and_never_the_engine(
    lm: elm_mlx.LanguageModel, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [checkpoints.prompt(n) for n in (5, 30)]
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0.8, "seed": 3}
    expected = [lm.generate(prompt, **options, reuse=False).tokens for prompt in prompts]
    faults = Faults()
    faults.install(monkeypatch)
    assert ask_all(lm, prompts, options) == expected
    failed = 0
    for place in range(1, faults.calls + 1, max(1, faults.calls // rounds)):
        faults.calls, faults.fails_at = 0, place
        got = ask_all(lm, prompts, options)
        faults.fails_at = 0
        assert all(tokens in (None, right) for tokens, right in zip(got, expected, strict=True))
        failed += None in got
        assert ask_all(lm, prompts, options) == expected
    assert failed > 0
    assert worker_of(lm).call(lambda engine: (len(engine.active), engine.limits.budget.reserved)) == (0, 0)


def ask_all(lm: elm_mlx.LanguageModel, prompts: list[list[int]], options: dict[str, Any]) -> list[list[int] | None]:
    """The answers to these prompts, asked for together; None for one that failed."""
    return [answer_or_none(stream) for stream in [lm.submit(prompt, **options) for prompt in prompts]]


def answer_or_none(stream: elm_mlx.Stream) -> list[int] | None:
    try:
        return stream.result(PATIENCE_S).tokens
    except RequestFailed:
        return None


def test_a_call_at_the_end_that_raises_keeps_nobody_else_waiting(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    def call() -> None:
        raise RuntimeError("a caller's mistake")

    streams = [lm.submit(checkpoints.prompt(9, seed=seed), 40) for seed in range(3)]
    for stream in streams:
        stream.when_over(call)
    assert all(stream._handle.wait(None, PATIENCE_S) for stream in streams)
    assert [len(stream.result().tokens) for stream in streams] == [40] * 3
    assert worker_of(lm).call(lambda _: worker_of(lm).places.taken) == 0  # and the step that ended them is over
    assert len(reported) == 3
