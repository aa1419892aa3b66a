"""Sessions: a turn says what a fresh prompt says, reads only what is new, and leaves nothing behind where it fails."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.engine.cache.kind import PLAIN
from elm_mlx.errors import (
    Cancelled,
    ConcurrentRequests,
    EngineStopped,
    ExceededContextWindow,
    InvalidRequest,
    NotFound,
    TimedOut,
)

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHORT = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'So ' }}{% endif %}"
)
LONG = 50_000
SEAM = 4  # ids at the end of a prompt that what follows may have encoded otherwise


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[elm_mlx.LanguageModel]:
    """A tiny Llama with a template, which never stops by itself."""
    raw = checkpoints.LLAMA | {"eos_token_id": None, "max_position_embeddings": 100_000}
    folder = checkpoints.write(tmp_path_factory.mktemp("sessions") / "instruct", raw)
    settings = {"bos_token": "<s>", "add_bos_token": True, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with elm_mlx.load(folder, rows=4) as one:
        yield one


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[elm_mlx.LanguageModel]:
    """The demo, with a template that takes few tokens."""
    place = tmp_path_factory.mktemp("sessions") / "short.jinja"
    place.write_text(SHORT, encoding="utf-8")
    with elm_mlx.load() as one:
        one.use_chat_template(place)
        yield one


@pytest.fixture(autouse=True)
def forgotten(lm: elm_mlx.LanguageModel) -> None:
    lm.forget_prefixes()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.9, "seed": 5},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"kv_bits": 8}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_session_of_twenty_turns_says_what_fresh_prompts_of_its_transcript_say(
    lm: elm_mlx.LanguageModel, options: dict[str, Any]
) -> None:
    session, read = lm.session("Be brief.", **options), 0
    for number in range(20):
        done = session.respond(f"What is {number}?", 4)
        assert session.transcript[-1] == {"role": "assistant", "content": done.text}
        if number in (1, 9, 19):
            assert done.tokens == lm.chat(session.transcript[:-1], 4, reuse=False, **options).tokens
        assert done.stats.cached_tokens >= read - SEAM
        read = done.stats.prompt_tokens
    assert len(session.transcript) == 41


@pytest.mark.parametrize("turns", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_session_with_the_demo_says_what_fresh_prompts_say_and_reads_what_is_new(
    demo: elm_mlx.LanguageModel, turns: int
) -> None:
    session = demo.session("One day a fox met a bear who lived in a small house by the river. They were good friends.")
    read = 0
    for number in range(turns):
        done = session.respond(f"Fox {number}.", 2)
        assert done.stats.cached_tokens >= read - SEAM
        read = done.stats.prompt_tokens
    assert done.tokens == demo.chat(session.transcript[:-1], 2, reuse=False).tokens
    assert done.stats.cached_tokens >= read - 20


@pytest.mark.slow
def test_sessions_in_turns_keep_what_they_have_read(lm: elm_mlx.LanguageModel) -> None:
    told = "Answer in one word, and be kind to whoever asks you. " * 3
    read = dict.fromkeys((lm.session(told) for _ in range(3)), 0)
    for turn in range(4):
        for number, session in enumerate(read):
            done = session.respond(f"{number} asks for {turn}", 5)
            assert done.stats.cached_tokens >= read[session] - SEAM
            read[session] = done.stats.prompt_tokens


@pytest.mark.slow
def test_other_requests_do_not_drop_what_a_session_has_read(openelm: Path) -> None:
    with elm_mlx.load(openelm, cache_bytes=5 * 10**5) as small:
        small.use_chat_template("zephyr")
        session = small.session()
        first = session.respond("Hello to you, my friend", 5)
        for number in range(12):
            small.generate([7 + number, *checkpoints.prompt(60)], 3)
        again = session.respond("And then", 5)
    assert again.stats.cached_tokens >= first.stats.prompt_tokens - 1


def test_what_a_session_has_read_gives_way_to_a_request_that_needs_the_memory(openelm: Path) -> None:
    with elm_mlx.load(openelm) as large:
        whole = large._worker.call(lambda engine: engine.limits.bytes_of(PLAIN, 511))
    with elm_mlx.load(openelm, cache_bytes=int(2.03 * whole)) as small:
        small.use_chat_template("zephyr")
        session = small.session()
        session.respond("Hello to you, my friend", 5)
        assert small._worker.call(lambda engine: len(engine.prefixes.entries)) == 1
        with small.submit([1], max_tokens=511) as one, small.submit([2], max_tokens=511) as other:
            next(one)
            next(other)
            assert small._worker.call(lambda engine: len(engine.running)) == 2
            assert small._worker.call(lambda engine: len(engine.prefixes.entries)) == 0
        done = session.respond("And then", 5)
        assert done.tokens == small.chat(session.transcript[:-1], 5, reuse=False).tokens


def test_prewarm_reads_the_instructions_and_the_first_turn_finds_them(lm: elm_mlx.LanguageModel) -> None:
    session = lm.session("Answer in one word, and be kind to whoever asks you.")
    read = len(lm.chat_prompt([*session.transcript, {"role": "user", "content": "no"}]))
    session.prewarm()
    assert not session.is_responding
    assert session.respond("Hi", 3).stats.cached_tokens >= read - 20
    assert len(session.transcript) == 3
    lm.session().prewarm()  # there is nothing to read


@pytest.mark.slow
def test_one_turn_at_a_time_and_an_abandoned_one_leaves_the_session_as_it_was(lm: elm_mlx.LanguageModel) -> None:
    session = lm.session()
    session.respond("Hi", 3)
    before = session.transcript
    stream = session.stream("And?", LONG)
    next(stream)
    assert session.is_responding
    for ask in (session.respond, session.stream):
        with pytest.raises(ConcurrentRequests, match="one request at a time"):
            ask("Now?")
    with pytest.raises(ConcurrentRequests):
        session.transcript = []
    del stream, ask
    gc.collect()
    assert (session.is_responding, session.transcript) == (False, before)
    assert session.respond("And?", 3).tokens


@pytest.mark.parametrize("way", ["close", "timeout", "error", "unknown", "leave", "cancel"])
def test_a_turn_that_does_not_end_leaves_the_session_as_it_was(lm: elm_mlx.LanguageModel, way: str) -> None:
    session = lm.session()
    session.respond("Hi", 3)
    before = session.transcript
    if way == "timeout":
        with pytest.raises(TimedOut, match=r"not answered after 0\.05 seconds"):
            session.respond("And?", LONG, timeout=0.05)
    elif way == "error":
        with pytest.raises(InvalidRequest):
            session.respond("And?", 0)
    elif way == "unknown":
        with pytest.raises(TypeError):
            session.respond("And?", 3, temprature=1)  # type: ignore[call-arg]
    elif way == "cancel":
        threading.Timer(0.1, session.cancel).start()
        with pytest.raises(Cancelled):
            session.respond("And?", LONG)
    else:
        with session.stream("And?", LONG) as stream:
            for _ in stream:
                break
            if way == "close":
                stream.close()
                assert list(stream) == []
    assert (session.is_responding, session.transcript) == (False, before)
    assert session.respond("And?", 3).stats.cached_tokens >= 3


def test_what_came_of_a_cancelled_turn_can_be_kept(lm: elm_mlx.LanguageModel) -> None:
    session = lm.session()
    stream = session.stream("Hi", LONG)
    came = "".join(next(stream).text for _ in range(4))
    stream.keep()
    assert session.transcript == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": came}]
    stream.keep()  # it is there already
    assert len(session.transcript) == 2
    other = session.stream("And?", LONG)
    next(other)
    other.close()
    session.respond("Well?", 3)
    with pytest.raises(InvalidRequest, match="has changed"):
        other.keep()


def test_pieces_add_up_to_the_answer_and_text_so_far_is_all_of_them(lm: elm_mlx.LanguageModel) -> None:
    session = lm.session(temperature=1.0, seed=3)
    stream = session.stream("Hi", 8)
    texts = [piece.text for piece in stream]
    assert "".join(texts) == stream.text_so_far == stream.completion.text == session.transcript[-1]["content"]
    assert stream.completion.tokens == lm.chat(session.transcript[:-1], 8, temperature=1.0, seed=3).tokens


def test_a_full_context_is_refused_with_the_numbers_and_a_shorter_transcript_goes_on(
    demo: elm_mlx.LanguageModel,
) -> None:
    session = demo.session("Be brief.")
    session.respond("Fox", 3)
    with pytest.raises(ExceededContextWindow, match=r"has \d+ tokens with this turn, and the model's context 512") as e:
        session.respond("word " * 300)
    assert (e.value.context, e.value.tokens > 512) == (512, True)
    assert len(session.transcript) == 3
    session.transcript = session.transcript[:1]
    assert session.respond("Fox", 3).text == session.transcript[-1]["content"]


def test_a_session_in_an_event_loop(lm: elm_mlx.LanguageModel) -> None:
    async def talk() -> None:
        sessions = [lm.session(f"You are {number}.") for number in range(3)]
        done = await asyncio.gather(*(session.arespond("Hi", 6) for session in sessions))
        for session, one in zip(sessions, done, strict=True):
            assert one.tokens == lm.chat(session.transcript[:-1], 6, reuse=False).tokens
        session = sessions[0]
        async for _ in session.astream("And?", LONG):
            break
        assert not session.is_responding
        task = asyncio.create_task(session.arespond("And?", LONG))
        await asyncio.sleep(0.05)
        assert session.is_responding
        with pytest.raises(ConcurrentRequests):
            await session.arespond("Now?")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (session.is_responding, len(session.transcript)) == (False, 3)
        texts = [piece.text async for piece in session.astream("And?", 4)]
        assert "".join(texts) == session.transcript[-1]["content"]

    asyncio.run(talk())


@pytest.mark.slow
def test_many_sessions_in_threads_and_many_threads_at_one_session(lm: elm_mlx.LanguageModel) -> None:
    sessions = [lm.session(f"You are {number}.") for number in range(6)]
    shared, refused, answered = lm.session(), [], []

    def talk(session: Any) -> None:
        for turn in range(3):
            session.respond(f"turn {turn}", 5)
            try:
                shared.respond("Hi", 3)
                answered.append(turn)
            except ConcurrentRequests:
                refused.append(turn)

    threads = [threading.Thread(target=talk, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) + len(answered) == 18
    assert len(shared.transcript) == 2 * len(answered)
    for session in sessions:
        messages = session.transcript
        assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 3]
        assert messages[-1]["content"] == lm.chat(messages[:-1], 5, reuse=False).text


def test_a_transcript_goes_on_in_another_session(lm: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    session = lm.session("Be brief.")
    session.respond("Hi", 4)
    session.save(tmp_path / "talk.json")
    others = [lm.session(transcript=session.transcript), lm.session(transcript=tmp_path / "talk.json")]
    assert [other.transcript for other in others] == [session.transcript] * 2
    wanted = session.respond("And?", 4).text
    assert [other.respond("And?", 4).text for other in others] == [wanted] * 2
    assert session.transcript[0] == {"role": "system", "content": "Be brief."}
    with pytest.raises(InvalidRequest, match="has a system message already"):
        lm.session("Be long.", transcript=session.transcript)


def test_the_last_message_is_answered_again_where_no_prompt_is_given(lm: elm_mlx.LanguageModel) -> None:
    session = lm.session()
    first = session.respond("Hi", 4)
    with pytest.raises(InvalidRequest, match="nothing to answer"):
        session.respond(None)
    session.transcript = session.transcript[:-1]
    assert session.respond(None, 4).text == first.text
    assert len(session.transcript) == 2


def test_what_a_session_cannot_be_given_is_refused(lm: elm_mlx.LanguageModel, openelm: Path) -> None:
    for wrong in (3, "\ud800", b"Hi"):
        with pytest.raises(InvalidRequest):
            lm.session(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            lm.session().respond(wrong)  # type: ignore[arg-type]
    given: list[dict[str, Any]] = [{"tool_rounds": 0}, {"tool_seconds": 0}, {"tool_seconds": "1"}, {"tools": "x"}]
    for options in [*given, {"transcript": [{"role": "user"}]}, {"temperature": -1}, {"kv_bits": 3}]:
        with pytest.raises(InvalidRequest):
            lm.session(**options)
    with elm_mlx.load(openelm) as base, pytest.raises(NotFound, match="no chat template"):
        base.session()
    with pytest.raises(EngineStopped):
        base.session()


def test_an_answer_has_the_form_that_it_is_asked_for(openelm: Path) -> None:
    pytest.importorskip("llguidance")
    with elm_mlx.load(openelm) as lm:
        lm.use_chat_template("zephyr")
        session = lm.session("Be brief.")
        done = session.respond("Is it so?", 8, schema={"type": "boolean"})
        assert done.parsed in (True, False)
        assert session.transcript[-1]["content"] == done.text == str(done.parsed).lower()
        assert asyncio.run(session.arespond("Which one?", 8, choices=["red", "blue"])).text in ("red", "blue")
        with pytest.raises(InvalidRequest):
            session.respond("And?", 8, schema={"type": "nothing"})
        assert len(session.transcript) == 5
        assert session.respond("And?", 3).stats.cached_tokens > 20


@pytest.mark.slow
def test_a_session_that_nobody_holds_leaves_its_keys_and_values_to_all(lm: elm_mlx.LanguageModel) -> None:
    def owners() -> list[int | None]:
        return lm._worker.call(lambda engine: [entry.owner for entry in engine.prefixes.entries])

    session = lm.session("Answer in one word, please.")
    session.respond("Hi", 12)
    assert len(owners()) == 1
    assert owners() != [None]
    del session
    gc.collect()
    assert owners() == [None]
    lm.forget_prefixes()
    session = lm.session("Answer in one word, please.")
    stream = session.stream("Hi", LONG)
    next(stream)
    del session, stream
    gc.collect()
    while not (found := owners()):  # until the turn has left
        continue
    assert found == [None]
