"""How likely a model finds a prompt: what its logits say, in chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.api.prompt_logprobs import PromptReading
from elm_mlx.errors import InvalidRequest, PromptTooLong, QueueFull

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


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_chunks_change_nothing(lm: elm_mlx.LanguageModel, chunk: int) -> None:
    def in_chunks(engine: Any) -> Any:
        whole, engine.execution = engine.execution, replace(engine.execution, chunk=chunk)
        try:
            reading = PromptReading(engine, IDS, 0)
            assert reading.begin()
            told = [reading.advance() for _ in range(-(-len(IDS) // chunk) + 1)]
            assert told[-2:] == [len(IDS), 0]
            reading.close()
            return reading.found
        finally:
            engine.execution = whole

    cut, whole = lm._worker.call(in_chunks), lm.prompt_logprobs(IDS)
    assert [one.logprob for one in cut] == pytest.approx([one.logprob for one in whole], abs=1e-4)
    assert len(cut) == len(whole)


def test_progress_is_told_and_ends_the_reading_where_it_raises(lm: elm_mlx.LanguageModel) -> None:
    told: list[tuple[int, int]] = []
    lm.prompt_logprobs(IDS, progress=lambda *how_far: told.append(how_far))
    assert told[-1] == (len(IDS), len(IDS))

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
    """The other request waits, two ids ahead of its reader, who takes some after each chunk: then it has to go on."""
    monkeypatch.setattr("elm_mlx.api.stream.OUTBOX", 2)
    beside, tokens = lm.stream(IDS, 30), list[int]()
    tokens.append(next(beside).token)

    def look(done: int, total: int) -> None:
        while (state := beside._handle.state).ids < len(tokens) + 2:
            assert beside._handle.wait(state, 60)
        while state.ids > len(tokens) + 1:
            tokens.append(next(beside).token)
        assert beside._handle.wait(state, 60)

    lm._worker.call(lambda engine: setattr(engine, "execution", replace(engine.execution, chunk=2)))
    try:
        assert len(lm.prompt_logprobs(IDS, progress=look)) == len(IDS) - 1
    finally:
        lm._worker.call(lambda engine: setattr(engine, "execution", lm.execution))
    assert len(tokens) >= 5
    assert [*tokens, *(piece.token for piece in beside)] == lm.generate(IDS, 30).tokens


def test_a_prompt_waits_for_room_and_gives_it_back(lm: elm_mlx.LanguageModel) -> None:
    budget: Any = lm._worker.call(lambda engine: engine.limits.budget)
    lm._worker.call(lambda _: budget.reserve(budget.limit))
    waited: list[int] = []

    def look(done: int, total: int) -> None:
        if not waited:
            waited.append(done)
            lm._worker.call(lambda _: budget.release(budget.limit))

    assert len(lm.prompt_logprobs(IDS, progress=look)) == len(IDS) - 1
    assert waited == [0]
    assert lm._worker.call(lambda _: budget.reserved) == 0
    assert lm._worker.places.taken == 0


def test_no_more_prompts_wait_than_requests_may(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm._worker.places, "most", 1)
    with lm._judging:

        def leave(done: int, total: int) -> None:
            with pytest.raises(QueueFull):
                lm.prompt_logprobs(IDS)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            lm.prompt_logprobs(IDS, progress=leave)
    assert len(lm.prompt_logprobs(IDS)) == len(IDS) - 1
