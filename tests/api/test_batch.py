"""Many prompts at once: each gets what `generate` gives it, in order or as they end, and no more is under way than
needed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.api.batch import AHEAD
from elm_mlx.errors import EngineStopped, InvalidRequest, PromptTooLong

ROWS = 3


@pytest.fixture(scope="module")
def lm(openelm: Path) -> Iterator[elm_mlx.LanguageModel]:
    with elm_mlx.load(openelm, rows=ROWS, queue=1) as one:
        yield one


PROMPTS = [checkpoints.prompt(n) for n in (5, 40, 3, 17, 9, 60, 2, 33, 12, 8, 21, 6)]


@pytest.mark.parametrize(
    "options", [{"max_tokens": 24}, {"max_tokens": 24, "temperature": 0.9, "seed": 4}, {"max_tokens": 3}], ids=str
)
def test_every_prompt_gets_the_answer_it_gets_alone(lm: elm_mlx.LanguageModel, options: dict[str, float]) -> None:
    alone = [lm.generate(prompt, **options, reuse=False).tokens for prompt in PROMPTS]  # type: ignore[arg-type]
    assert [done.tokens for done in lm.batch(PROMPTS, **options)] == alone  # type: ignore[call-overload]
    ended = dict(lm.batch(PROMPTS, ordered=False, **options))  # type: ignore[call-overload]
    assert [ended[index].tokens for index in range(len(PROMPTS))] == alone


def test_texts_and_ids_may_be_mixed(lm: elm_mlx.LanguageModel) -> None:
    text, ids = lm.batch(["Hi", lm.tokenizer.encode("Hi")], 4)
    assert text.tokens == ids.tokens


@pytest.mark.parametrize("ordered", [True, False])
def test_prompts_are_taken_only_as_answers_are_read(lm: elm_mlx.LanguageModel, ordered: bool) -> None:
    taken: list[int] = []
    endless = (taken.append(n) or [1, n % 400 + 2] for n in count())
    answers = lm.batch(endless, 2, ordered=ordered)  # type: ignore[call-overload]
    assert taken == []
    assert len(list(islice(answers, 20))) == 20
    assert len(taken) <= 20 + AHEAD * ROWS
    answers.close()


def test_closing_cancels_what_is_under_way(lm: elm_mlx.LanguageModel) -> None:
    for ordered in (True, False):
        answers = lm.batch([[1]] * 50, 30, ordered=ordered)  # type: ignore[call-overload]
        next(answers)
        answers.close()
        assert lm.generate([1], 1).tokens  # comes after the cancels
        assert lm._worker.call(lambda engine: len(engine.active)) == 0


def test_a_batch_keeps_nothing_for_later_requests(lm: elm_mlx.LanguageModel) -> None:
    lm.forget_prefixes()
    list(lm.batch([checkpoints.prompt(50)] * 4, 4))
    assert lm.forget_prefixes() == 0
    lm.generate(checkpoints.prompt(50), 4)
    assert lm.forget_prefixes() > 0


def test_options_are_refused_before_a_prompt_is_taken(lm: elm_mlx.LanguageModel) -> None:
    never = (pytest.fail("a prompt was taken") for _ in range(1))
    with pytest.raises(InvalidRequest, match="max_tokens"):
        lm.batch(never, 0)
    with pytest.raises(InvalidRequest, match="seed"):
        lm.batch(never, seed="x")  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="reuse"):
        lm.batch(never, reuse=1)  # type: ignore[call-overload]
    for prompts in ("Once upon a time", b"x", {"a": 1}, 5):
        with pytest.raises(InvalidRequest, match="list of prompts"):
            lm.batch(prompts)  # type: ignore[call-overload]


def test_a_prompt_that_is_refused_ends_the_batch_and_cancels_the_rest(lm: elm_mlx.LanguageModel) -> None:
    answers = lm.batch([[1], [2], checkpoints.prompt(lm.config.context_length), [3]], 30)
    with pytest.raises(PromptTooLong):
        list(answers)
    assert lm.generate([1], 1).tokens
    assert lm._worker.call(lambda engine: len(engine.active)) == 0


def test_a_model_that_is_closed_ends_its_batches(openelm: Path) -> None:
    lm = elm_mlx.load(openelm)
    answers = lm.batch([[1]] * 200, 2)
    next(answers)
    lm.close()
    with pytest.raises((EngineStopped, elm_mlx.errors.Cancelled)):
        list(answers)
    assert list(answers) == []
