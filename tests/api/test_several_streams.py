"""Several answers as streams of one reader: begun together, read as they come without waiting, continued, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import chat_templates, scripts

import elm_mlx
from elm_mlx.api.asynchronous import Bell
from elm_mlx.errors import InvalidRequest, PromptTooLong, QueueFull, RequestFailed

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[elm_mlx.LanguageModel]:
    with elm_mlx.load(scripts.write(tmp_path_factory.mktemp("streams") / "m", chat_templates.LLAMA_3)) as lm:
        yield lm


@pytest.mark.slow
def test_one_reader_takes_what_several_answers_have_ready(lm: elm_mlx.LanguageModel) -> None:
    wanted = [done.text for done in lm.completions(PROMPT, 3, 9, temperature=1.0, seed=5)]

    async def read() -> list[str]:
        texts, bell = ["", "", ""], Bell()
        streams = lm.streams(PROMPT, 3, 9, temperature=1.0, seed=5)
        while going := [stream for stream in streams if not stream.is_over]:
            await bell.wait(stream.seen for stream in going)
            for place, stream in enumerate(streams):
                texts[place] += "".join(piece.text for piece in stream.ready())
        return texts

    assert asyncio.run(asyncio.wait_for(read(), 20)) == wanted


def test_what_came_before_an_error_is_read_before_it(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, steps = lm._worker.engine, []

    def carry_out(plan: Any, original: Any = lm._worker.engine.carry_out) -> Any:
        steps.append(plan)
        if len(steps) == 6:
            raise ZeroDivisionError("injected")
        return original(plan)

    whole = lm.generate(PROMPT, 9).tokens
    monkeypatch.setattr(engine, "carry_out", carry_out)
    [stream] = lm.streams(PROMPT, 1, 9, reuse=False)
    with pytest.raises(RequestFailed):
        stream.result()  # both the pieces and the error are there now
    read = []

    def read_all() -> None:
        for piece in stream.ready():
            read.append(piece.token)

    with pytest.raises(RequestFailed):
        read_all()
    assert read
    assert read == whole[: len(read)]
    assert stream.is_over


def test_a_rung_bell_ends_a_wait(lm: elm_mlx.LanguageModel) -> None:
    async def wait() -> None:
        bell = Bell()
        asyncio.get_running_loop().call_later(0.01, bell.ring)
        await asyncio.wait_for(bell.wait([]), 10)

    asyncio.run(wait())


def test_a_begun_answer_is_continued_where_it_ends(lm: elm_mlx.LanguageModel) -> None:
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is "}]
    opened = lm.chat_prompt(asked[:1])
    continued = lm.chat_prompt(asked, goes_on=True)
    assert continued[: len(opened)] == opened
    assert lm.tokenizer.decode(continued[len(opened) :]) == "It is "
    assert list(lm.chat_streams(asked, 1, 5, goes_on=True)[0].prompt) == continued


@pytest.mark.parametrize(
    "last",
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
    ],
)
def test_what_is_no_begun_text_is_not_continued(lm: elm_mlx.LanguageModel, last: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be continued: it must be"):
        lm.chat_prompt([{"role": "user", "content": "Hi"}, last], goes_on=True)


def test_a_template_that_hides_the_last_message_continues_nothing(lm: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "short.jinja").write_text("{% for m in messages %}{{ m.content[:3] }}{% endfor %}")
    with elm_mlx.load(lm.directory) as other:
        other.use_chat_template(tmp_path / "short.jinja")
        with pytest.raises(InvalidRequest, match="cannot be continued"):
            other.chat_prompt([{"role": "assistant", "content": "It is"}], goes_on=True)


def test_what_a_caller_names_does_not_replace_the_messages(lm: elm_mlx.LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="messages is not for callers"):
        lm.chat_streams([{"role": "user", "content": "Hi"}], 1, 5, variables={"messages": []})


def test_either_all_answers_begin_or_none(lm: elm_mlx.LanguageModel) -> None:
    with elm_mlx.load(lm.directory, rows=1, queue=1) as small:
        with pytest.raises(QueueFull):
            small.streams(PROMPT, 3, 50)
        while small._worker.places.taken:
            small.forget_prefixes()  # waits for the device thread, and so for what was cancelled
        assert small.generate(PROMPT, 2).stats.generated_tokens == 2


def test_a_smaller_context_holds_for_prompts_and_answers(lm: elm_mlx.LanguageModel) -> None:
    with elm_mlx.load(lm.directory, context=12) as small:
        assert small.config.context_length == 12
        assert small.generate([5] * 8, None, banned_ids=list(small.stop_ids)).stats.generated_tokens == 4
        with pytest.raises(PromptTooLong):
            small.generate([5] * 12)
    with pytest.raises(InvalidRequest, match="context is 0"):
        elm_mlx.load(lm.directory, context=0)


def test_a_closed_model_says_that_it_is_idle_and_why_it_answers_no_more(lm: elm_mlx.LanguageModel) -> None:
    other = elm_mlx.load(lm.directory)
    assert other.activity[:2] == (0, 0)
    assert other.activity.stopped is None
    other.close()
    assert "closed" in str(other.activity.stopped)
