"""Many threads, one model: none of their requests is lost, none gets another's answer, and the memory comes back."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.errors import Cancelled, EngineStopped, QueueFull, TimedOut

PATIENCE_S = 60
THREADS = 8


class Ask(NamedTuple):
    """A request, and what its answer is alone."""

    prompt: list[int]
    options: dict[str, Any]
    tokens: list[int]


@pytest.fixture(scope="module")
def lm(openelm: Path) -> Iterator[elm_mlx.LanguageModel]:
    with elm_mlx.load(openelm, rows=5, queue=30) as one:
        yield one


@pytest.fixture(scope="module")
def asks(lm: elm_mlx.LanguageModel) -> list[Ask]:
    """Requests of all kinds, with their answers."""
    rng = random.Random(7)
    found = []
    for seed in range(24):
        prompt = checkpoints.prompt(rng.randint(1, 60))
        options: dict[str, Any] = {"max_tokens": rng.randint(1, 30)}
        options |= rng.choice([{}, {"temperature": 0.9, "seed": seed}, {"temperature": 1.2, "top_k": 9, "seed": seed}])
        options |= rng.choice([{}, {"reuse": False}])
        found.append(Ask(prompt, options, lm.generate(prompt, **options | {"reuse": False}).tokens))
    return found


def is_beginning(tokens: list[int], ask: Ask) -> bool:
    return tokens == ask.tokens[: len(tokens)]


def is_right(stream: elm_mlx.Stream, ask: Ask, timeout: float | None = None) -> bool:
    """Whether a request gives its answer, or the beginning of it where it is cancelled."""
    try:
        return stream.result(timeout).tokens == ask.tokens
    except (Cancelled, TimedOut) as error:
        return is_beginning(error.completion.tokens, ask)


def use(lm: elm_mlx.LanguageModel, ask: Ask, rng: random.Random) -> str:
    """Asks in one of many ways, checks what comes, and says how it ended."""
    way = rng.randrange(7)
    if way == 0:
        assert lm.generate(ask.prompt, **ask.options).tokens == ask.tokens
        return "whole"
    stream = lm.submit(ask.prompt, **ask.options)
    if way == 1:
        for count, piece in enumerate(stream):
            assert piece.token == [*ask.tokens, piece.token][count]
            if rng.random() < 0.1:
                stream.cancel()
        assert is_beginning(stream.completion.tokens, ask)
        return "read"
    if way == 2:
        assert is_right(stream, ask, rng.random() * 0.05)
        return "timed"
    if way == 3:
        time.sleep(rng.random() * 0.01)
        stream.cancel()
        assert is_right(stream, ask)
        return "cancelled"
    if way == 4:
        next(stream, None)
        return "abandoned"
    if way == 5:
        assert [c.tokens for c in lm.batch([ask.prompt] * 3, **ask.options)] == [ask.tokens] * 3
        return "batch"
    assert stream.result(PATIENCE_S).tokens == ask.tokens
    return "waited"


def storm(lm: elm_mlx.LanguageModel, asks: list[Ask], each: int) -> None:
    """Eight threads, each with so many requests. Every request has to end."""
    ended: list[str] = []

    def run(number: int) -> None:
        rng = random.Random(number)
        done = 0
        while done < each:
            try:
                ended.append(use(lm, rng.choice(asks), rng))
                done += 1
            except QueueFull:
                time.sleep(0.001)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(run, number) for number in range(THREADS)]:
            future.result()
    assert len(ended) == THREADS * each


def settled(lm: elm_mlx.LanguageModel) -> tuple[int, int, int]:
    """(requests that the engine knows, bytes that they reserve, bytes that MLX holds), when those that were cancelled
    last have gone, and nothing is kept of any."""
    gc.collect()
    end = time.monotonic() + PATIENCE_S
    while lm._worker.call(lambda engine: len(engine.active)) and time.monotonic() < end:
        time.sleep(0.01)
    lm.generate([1], 3)  # the buffers of the last step stay until the next
    lm.forget_prefixes()
    return lm._worker.call(lambda engine: (len(engine.active), engine.limits.budget.reserved, mx.get_active_memory()))


@pytest.mark.parametrize(
    "each",
    [2, pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.soak)],
)
def test_threads_that_ask_cancel_and_give_up_get_their_own_answers_and_leave_nothing(
    lm: elm_mlx.LanguageModel, asks: list[Ask], each: int
) -> None:
    before = settled(lm)
    storm(lm, asks, each)
    active, reserved, memory = settled(lm)
    assert (active, reserved) == (0, 0)
    assert memory <= before[2] + 2**16
    assert lm.generate(asks[0].prompt, **asks[0].options).tokens == asks[0].tokens


@pytest.mark.parametrize(
    "each",
    [2, pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.soak)],
)
def test_tasks_that_ask_cancel_and_give_up_get_their_own_answers_and_leave_nothing(
    lm: elm_mlx.LanguageModel, asks: list[Ask], each: int
) -> None:
    before = settled(lm)
    ended: list[str] = []

    async def use_once(ask: Ask, rng: random.Random) -> str:
        way = rng.randrange(4)
        if way == 0:
            assert (await lm.agenerate(ask.prompt, **ask.options)).tokens == ask.tokens
            return "whole"
        if way == 1:
            try:
                async with asyncio.timeout(rng.random() * 0.05):
                    assert (await lm.agenerate(ask.prompt, **ask.options)).tokens == ask.tokens
            except TimeoutError:
                return "timed out"
            return "in time"
        stream = lm.astream(ask.prompt, **ask.options)
        tokens = []
        async for piece in stream:
            tokens.append(piece.token)
            if way == 2 and rng.random() < 0.2:
                break
        assert is_beginning([t for t in tokens if t in ask.tokens], ask)
        assert is_beginning(stream.completion.tokens, ask)
        return "read"

    async def run(number: int) -> None:
        rng = random.Random(number)
        done = 0
        while done < each:
            try:
                ended.append(await use_once(rng.choice(asks), rng))
                done += 1
            except QueueFull:
                await asyncio.sleep(0.001)

    async def main() -> None:
        await asyncio.gather(*(run(number) for number in range(THREADS)))

    asyncio.run(main())
    active, reserved, memory = settled(lm)
    assert (len(ended), active, reserved) == (THREADS * each, 0, 0)
    assert memory <= before[2] + 2**16


def test_two_models_answer_at_once(lm: elm_mlx.LanguageModel, asks: list[Ask], openelm: Path) -> None:
    with elm_mlx.load(openelm) as other, ThreadPoolExecutor(4) as pool:
        for one, two in zip(asks[:8], asks[8:16], strict=True):
            first = pool.submit(lm.generate, one.prompt, **one.options)
            second = pool.submit(other.generate, two.prompt, **two.options)
            assert (first.result().tokens, second.result().tokens) == (one.tokens, two.tokens)
    assert lm.generate(asks[0].prompt, **asks[0].options).tokens == asks[0].tokens  # the other one is closed


def test_any_thread_may_load_and_close(openelm: Path) -> None:
    expected = elm_mlx.load(openelm).generate("Hi", 5).tokens

    def whole_life() -> list[int]:
        with elm_mlx.load(openelm) as one:
            return one.generate("Hi", 5).tokens

    with ThreadPoolExecutor(4) as pool:
        assert [future.result() for future in [pool.submit(whole_life) for _ in range(12)]] == [expected] * 12


def test_closing_ends_every_request_as_cancelled_and_wakes_who_waits(openelm: Path) -> None:
    lm = elm_mlx.load(openelm)
    read, waited = lm.stream("Hi", 200), lm.submit("Hi", 200)
    next(read)
    ends: list[type[BaseException] | str] = []

    def wait() -> None:
        try:
            ends.append(waited.result().finish_reason)
        except Cancelled as error:
            ends.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    lm.close()
    lm.close()  # twice does nothing
    thread.join(PATIENCE_S)
    assert ends in ([Cancelled], ["length"], ["stop"])
    assert len(list(read)) < 200
    for call in uses_of(lm):
        with pytest.raises(EngineStopped, match="closed"):
            call()


def uses_of(lm: elm_mlx.LanguageModel) -> list[Callable[[], object]]:
    return [
        lambda: lm.generate("Hi", 2),
        lambda: lm.stream("Hi", 2),
        lambda: lm.batch(["Hi"], 2),
        lambda: lm.logits([1]),
        lambda: lm.forget_prefixes(),
        lambda: lm.model,
    ]


@pytest.mark.slow
def test_a_model_that_nobody_holds_gives_its_memory_back(openelm: Path) -> None:
    with elm_mlx.load(openelm) as watcher:
        before = settled(watcher)[2]
        lm = elm_mlx.load(openelm)
        lm.generate("Hi", 5)
        more = settled(watcher)[2]
        del lm
        assert settled(watcher)[2] <= before + 2**16 < more


def test_an_abandoned_stream_keeps_its_model_no_longer_than_itself(openelm: Path) -> None:
    stream = elm_mlx.load(openelm).stream("Hi", 30)  # nobody else holds the model
    assert len(list(stream)) <= 30


def test_a_consumer_that_raises_cancels_its_request(lm: elm_mlx.LanguageModel) -> None:
    def consume() -> None:
        for _ in lm.stream(checkpoints.prompt(9), 200):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert settled(lm)[:2] == (0, 0)


def test_progress_that_raises_cancels_its_request(lm: elm_mlx.LanguageModel) -> None:
    def stop(*_: int) -> None:
        raise ZeroDivisionError

    stream = lm.stream(checkpoints.prompt(9), 200, progress=stop)
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert list(stream) == []
    assert settled(lm)[:2] == (0, 0)


def test_progress_is_told_by_who_reads(lm: elm_mlx.LanguageModel) -> None:
    heard: list[tuple[int, int, int]] = []
    prompt = checkpoints.prompt(100)
    stream = lm.stream(prompt, 3, progress=lambda *at: heard.append((*at, threading.get_ident())), reuse=False)
    list(stream)
    assert heard[-1] == (100, 100, threading.get_ident())
    assert [at[0] for at in heard] == sorted(at[0] for at in heard)


def test_several_may_read_one_stream_and_each_piece_goes_to_one(lm: elm_mlx.LanguageModel) -> None:
    expected = lm.generate(checkpoints.prompt(9), 100).tokens
    stream = lm.stream(checkpoints.prompt(9), 100)
    with ThreadPoolExecutor(4) as pool:
        parts = [future.result() for future in [pool.submit(list, stream) for _ in range(4)]]
    tokens = [piece.token for part in parts for piece in part if piece.finish_reason != "stop"]
    assert sorted(tokens) == sorted(expected)
    assert stream.completion.tokens == expected


def test_only_the_device_thread_touches_mlx(openelm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function of MLX is watched while models are loaded and used in all ways."""
    seen: dict[str, set[str]] = {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.setdefault(threading.current_thread().name, set()).add(name)
            return function(*args, **kwargs)

        return call

    for module, names in ((mx, vars(mx)), (mx.fast, vars(mx.fast)), (mx.random, vars(mx.random))):
        for name, value in list(names.items()):
            if type(value).__name__ == "nb_func":
                monkeypatch.setattr(module, name, watched(name, value))
    with elm_mlx.load(openelm) as lm, ThreadPoolExecutor(1) as pool:
        prompt = checkpoints.prompt(20)
        lm.use_chat_template("zephyr")
        lm.generate(prompt, 8, temperature=0.8, top_p=0.9, seed=1)
        for call in (lm.chat, lm.generate):
            pool.submit(call, [{"role": "user", "content": "Hi"}] if call == lm.chat else prompt, 4).result()
        list(lm.stream(prompt, 5, progress=lambda *_: None))
        list(lm.batch([prompt] * 5, 4)), list(lm.batch([prompt] * 5, 4, ordered=False))
        asyncio.run(lm.agenerate(prompt, 4))
        assert np.array(lm.logits(prompt)).shape[0] == 20  # by NumPy: evaluated, so that any thread may read it
        lm.forget_prefixes()
        str(lm.generate(prompt, 2).stats)
    assert set(seen) == {"elm-mlx device"}
    assert {"async_eval", "eval", "split"} <= seen["elm-mlx device"]
