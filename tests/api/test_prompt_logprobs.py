"""How likely a model finds a prompt: what its logits say, in chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import elm_mlx
from elm_mlx.api.prompt_logprobs import prompt_logprobs_of
from elm_mlx.errors import InvalidRequest, PromptTooLong

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
            return prompt_logprobs_of(engine, IDS, 0)
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
