"""How likely a model finds a prompt: what its logits say, in chunks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.engine.judged_reading import JudgedReading
from elm_mlx.errors import InvalidRequest, PromptTooLong, QueueFull, RequestFailed

pytestmark = pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)

IDS = [5, 9, 9, 17, 3, 30, 31, 8, 2]


def test_each_id_but_the_first_is_as_likely_as_the_logits_say(lm: elm_mlx.LanguageModel) -> None:
    logits = lm.logits(IDS)
    expected = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    found = lm.prompt_logprobs(IDS, 2)
    assert len(found) == len(IDS) - 1
    for row, (id, entry) in enumerate(zip(IDS[1:], found, strict=True)):
        assert entry.logprob == pytest.approx(expected[row, id], abs=1e-4)
        assert entry.alternatives[0][1] == pytest.approx(expected[row].max(), abs=1e-4)
        assert len(entry.alternatives) == 2


@contextmanager
def chunks_of(lm: elm_mlx.LanguageModel, size: int) -> Iterator[None]:
    """Has prompts be read in chunks of so many ids."""
    lm._worker.call(lambda engine: setattr(engine, "execution", replace(engine.execution, chunk=size)))
    try:
        yield
    finally:
        lm._worker.call(lambda engine: setattr(engine, "execution", lm.execution))


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_neither_chunks_nor_company_change_anything(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    whole, told = lm.prompt_logprobs(IDS), list[tuple[int, int]]()
    beside = [lm.submit(IDS, 5) for _ in range(3)]  # short prompts, which are read together
    with chunks_of(lm, chunk):
        cut = lm.prompt_logprobs(IDS, progress=lambda *how_far: told.append(how_far))
    assert [one.logprob for one in cut] == pytest.approx([one.logprob for one in whole], abs=1e-4)
    assert len({tuple(one.result().tokens) for one in beside}) == 1
    assert asyncio.run(lm.aprompt_logprobs(IDS)) == whole
    assert told[-1] == (len(IDS) - 1, len(IDS) - 1)


def test_progress_is_told_and_ends_the_reading_where_it_raises(lm: elm_mlx.LanguageModel) -> None:
    told: list[tuple[int, int]] = []
    lm.prompt_logprobs(IDS, progress=lambda *how_far: told.append(how_far))
    assert told[-1] == (len(IDS) - 1, len(IDS) - 1)  # the last id need not be read

    def leave(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lm.prompt_logprobs(IDS, progress=leave)
    assert len(lm.prompt_logprobs(IDS)) == len(IDS) - 1


def test_one_id_has_nothing_before_it_and_what_has_no_meaning_is_refused(lm: elm_mlx.LanguageModel) -> None:
    assert lm.prompt_logprobs([5]) == []
    with pytest.raises(PromptTooLong):
        lm.prompt_logprobs([5] * (lm.config.context_length + 1))
    with pytest.raises(InvalidRequest, match="logprobs is 21"):
        lm.prompt_logprobs(IDS, 21)


def test_requests_go_on_between_the_chunks_of_a_prompt(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both wait when the device thread gets to them; the first has one id more after each chunk of the other."""
    gate, usual, ids = threading.Event(), JudgedReading.advance, list[int]()

    async def ask() -> list[Any]:
        lm._worker.order(lambda: gate.wait(60) and None)
        beside = lm.submit(IDS, 30)

        def advance(reading: JudgedReading) -> Any:
            ids.append(beside._handle.state.ids)
            return usual(reading)

        monkeypatch.setattr(JudgedReading, "advance", advance)
        asked = asyncio.ensure_future(lm.aprompt_logprobs(IDS))
        await asyncio.sleep(0)  # now it is asked for
        gate.set()
        found = await asked
        assert (await beside.aresult()).tokens == lm.generate(IDS, 30).tokens
        return found

    with chunks_of(lm, 1):
        assert len(asyncio.run(ask())) == len(IDS) - 1
    assert len(ids) > 2
    news = [later - earlier for earlier, later in pairwise(ids)]
    assert news == [1, 0, *[1] * (len(news) - 2)]  # no step was under way when its first id was read


def test_a_prompt_waits_for_room_and_gives_it_back(lm: elm_mlx.LanguageModel) -> None:
    budget: Any = lm._worker.call(lambda engine: engine.limits.budget)
    lm._worker.call(lambda _: budget.reserve(budget.limit))

    async def ask() -> list[Any]:
        asked = asyncio.ensure_future(lm.aprompt_logprobs(IDS))
        while not lm.activity.waiting:
            await asyncio.sleep(0.001)
        lm._worker.call(lambda _: budget.release(budget.limit))
        return await asked

    assert len(asyncio.run(ask())) == len(IDS) - 1
    assert lm._worker.call(lambda _: budget.reserved) == 0
    assert lm._worker.places.taken == 0


def test_no_more_prompts_wait_than_requests_may(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm._worker.places, "most", 0)
    with pytest.raises(QueueFull):
        lm.prompt_logprobs(IDS)
    monkeypatch.setattr(lm._worker.places, "most", 1)
    assert len(lm.prompt_logprobs(IDS)) == len(IDS) - 1


@pytest.mark.parametrize("call", ["prompt_logprobs", "scores", "logits"])
def test_a_computation_that_fails_is_told_by_a_typed_error(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("on the device")

    with monkeypatch.context() as patch:
        patch.setattr(type(lm.model), "hidden", fail)
        with pytest.raises(RequestFailed, match="on the device") as caught:
            getattr(lm, call)(IDS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    getattr(lm, call)(IDS)  # the next one does not fail
    assert lm._worker.places.taken == 0
