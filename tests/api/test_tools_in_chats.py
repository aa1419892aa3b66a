"""Tools in a chat, through the engine: calls come as pieces and in the completion, read, unread and awaited."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import chat_templates as written
from helpers import scripts

import elm_mlx
from elm_mlx.api.tools import tool_of
from elm_mlx.errors import InvalidRequest, NotEnforceable
from elm_mlx.text.tools import ToolCall

CALL = '{"name": "weather", "parameters": {"city": "Zü 天", "days": "2"}}'
ASK = [{"role": "user", "content": "Hi"}]
REASONER = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: <think>\\n' }}{% endif %}{# ends with </think> #}"
)


def weather(city: str, days: int = 1) -> str:
    """Tells the weather.

    Args:
        city: Where.
    """
    raise AssertionError(f"the library ran a tool for {city}, {days}")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return elm_mlx.load(scripts.write(tmp_path_factory.mktemp("tools") / "m", written.LLAMA_31))


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return elm_mlx.load(scripts.write(tmp_path_factory.mktemp("reasoner") / "m", REASONER))


@pytest.fixture(scope="module")
def toolless(tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return elm_mlx.load(scripts.write(tmp_path_factory.mktemp("toolless") / "m", written.LLAMA_3))


def test_a_call_comes_as_a_piece_and_in_the_completion(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = scripts.say(monkeypatch, lm, f"<|python_tag|>{CALL} Wait.<|eom_id|>")
    stream = lm.chat_stream(ASK, 300, tools=[weather], seed=1, logprobs=0)
    pieces = list(stream)
    called = [piece for piece in pieces if piece.tool_call]
    assert [(piece.kind, piece.text) for piece in called] == [("tool", CALL)]
    assert called[0].tool_call
    assert called[0].tool_call.arguments == {"city": "Zü 天", "days": 2}
    done = lm.chat(ASK, 300, tools=[tool_of(weather).schema], seed=1, logprobs=0)
    own = {name: getattr(done, name) for name in ("stats", "logprobs")}  # the second reads less of its prompt
    assert done == elm_mlx.Completion(**{**vars(stream.completion), **own})
    assert (done.text, done.finish_reason, done.reasoning) == ("Wait.", "stop", None)
    assert done.tool_calls == (called[0].tool_call,)
    assert done.logprobs is not None
    assert [one.logprob for one in done.logprobs] == pytest.approx([one.logprob for one in stream.completion.logprobs])
    assert len(done.logprobs) == len(done.tokens) == len([piece for piece in pieces if piece.logprob]) - 1
    assert "".join(piece.text for piece in pieces) == lm.tokenizer.decode(done.tokens) == f"{CALL} Wait."
    assert asyncio.run(lm.achat(ASK, 300, tools=[weather], seed=1)).tool_calls == done.tool_calls
    assert lm.chat(ASK, 300, tools=[weather]).tool_calls[0].id != done.tool_calls[0].id
    assert prompts[0] == prompts[1] == tuple(lm.chat_prompt(ASK, tools=[weather]))
    assert '"description": "Where."' in lm.tokenizer.decode(prompts[0])


def test_a_call_that_the_length_cuts_is_none(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts.say(monkeypatch, lm, f"{CALL}<|eot_id|>")
    whole = lm.chat(ASK, 300, tools=[weather])
    assert whole.tool_calls
    length = len(whole.tokens) - 1
    shown = "".join(piece.text for piece in lm.chat_stream(ASK, length, tools=[weather]))
    done = lm.chat(ASK, length, tools=[weather])
    assert done.text == shown == lm.tokenizer.decode(whole.tokens[:length])
    assert (done.tool_calls, done.finish_reason) == ((), "length")
    assert lm.chat(ASK, len(whole.tokens), tools=[weather]).tool_calls[0].arguments == {"city": "Zü 天", "days": 2}
    stopped = lm.chat(ASK, 300, tools=[weather], stop="days")
    assert (stopped.tool_calls, stopped.stop_reason) == ((), "days")
    assert stopped.text == CALL.partition("days")[0]


@pytest.mark.parametrize(
    ("said", "until"),
    [
        (f"{CALL}; {CALL} Wait.", CALL),
        (f"<|python_tag|>{CALL}<|python_tag|>{CALL}", f"<|python_tag|>{CALL}"),
        (f"Hm. <function=weather>{{}}</function>{CALL}", "Hm. <function=weather>{}</function>"),
        ('[weather(city="a"), weather(city="b")] Wait.', '[weather(city="a"), weather(city="b")]'),
        ("Wait.", "Wait.<|eot_id|>"),
    ],
)
def test_without_parallel_calls_an_answer_is_over_with_its_first_one(
    lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch, said: str, until: str
) -> None:
    scripts.say(monkeypatch, lm, f"{said}<|eot_id|>")
    options: Any = {"tools": [weather], "calls_in_parallel": False, "seed": 1, "stop": "not there", "logprobs": 0}
    (read,), (unread,) = (lm.chat_streams(ASK, 1, 300, **options) for _ in range(2))
    pieces = list(read)
    done = unread.result()
    assert done == elm_mlx.Completion(**{**vars(read.completion), "stats": done.stats})
    is_called = "Wait." not in until
    assert (done.finish_reason, len(done.tool_calls)) == ("stop", is_called)
    assert (done.stop_reason is None) == is_called
    assert done.tokens + [done.stop_reason] * (not is_called) == scripts.ids_of(lm, until)
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].stop_reason == done.stop_reason
    assert len(done.logprobs or ()) == len(done.tokens)


def test_nothing_is_called_without_tools(lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = scripts.say(monkeypatch, lm, f"{CALL}<|eot_id|>")
    for done in (
        lm.chat(ASK, 300),
        lm.chat(ASK, 300, tools=[weather], tool_choice="none"),
        lm.chat(ASK, 300, tools=[]),
    ):
        assert (done.text, done.tool_calls) == (CALL, ())
    assert len(set(prompts)) == 1


def test_reasoning_that_the_prompt_began_is_no_text(
    reasoner: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.say(monkeypatch, reasoner, "the cat\n</think>\n\nthe dog<|eot_id|>")
    for done in (reasoner.chat(ASK, 99), reasoner.generate(reasoner.chat_prompt(ASK), 99)):
        assert (done.reasoning, done.text) == ("the cat\n", "the dog")
    stream = reasoner.chat_stream(ASK, 99)
    assert {piece.kind for piece in stream} == {"reasoning", "text"}
    assert (stream.completion.reasoning, stream.completion.text) == ("the cat\n", "the dog")
    scripts.say(monkeypatch, reasoner, "<think>the cat</think>the dog<|eot_id|>")
    done = reasoner.generate("the moon", 99)
    assert (done.reasoning, done.text) == ("the cat", "the dog")


def test_a_token_whose_text_belongs_to_two_parts_has_two_pieces(
    reasoner: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.say(monkeypatch, reasoner, "the cat</think>the dog<|eot_id|>")
    stop = "cat</think>the dog and the moon"  # so all is held back until the end
    stream = reasoner.chat_stream(ASK, 99, stop=stop, logprobs=0)
    seen, pieces = [], []
    for piece in stream:
        pieces.append(piece)
        seen.append(stream.completion)
    done = reasoner.chat(ASK, 99, stop=stop, logprobs=0)
    assert [(piece.kind, piece.text) for piece in pieces[-2:]] == [("reasoning", "cat"), ("text", "the dog")]
    assert pieces[-1].token == pieces[-2].token == done.stop_reason
    assert [piece.finish_reason for piece in pieces[-2:]] == [None, "stop"]
    assert seen[-2].tokens == seen[-1].tokens == done.tokens
    assert sum(piece.logprob is not None for piece in pieces) == len(done.tokens) + 1
    assert (seen[-1].text, seen[-1].reasoning, seen[-1].logprobs) == (done.text, done.reasoning, done.logprobs)


def test_several_calls_in_a_message_are_set_apart_where_the_template_refuses_them(lm: elm_mlx.LanguageModel) -> None:
    first, second = ToolCall("call_1", "weather", {"city": "Rom"}), ToolCall("call_2", "weather", {"city": "Ulm"})
    results = [{"role": "tool", "tool_call_id": f"call_{number}", "content": f"sun {number}"} for number in (2, 1)]
    together = [*ASK, {"role": "assistant", "content": None, "tool_calls": [first, second]}, *results]
    apart = [*ASK, {"role": "assistant", "tool_calls": [first]}, results[1],
             {"role": "assistant", "tool_calls": [second]}, results[0]]  # fmt: skip
    assert lm.chat_prompt(together, tools=[weather]) == lm.chat_prompt(apart, tools=[weather])
    as_text = json.loads(json.dumps(apart, default=vars))
    for message, call in zip((as_text[1], as_text[3]), (first, second), strict=True):
        function = {"name": call.name, "arguments": json.dumps(call.arguments)}
        message["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
    assert lm.chat_prompt(as_text, tools=[weather]) == lm.chat_prompt(apart, tools=[weather])
    shown = lm.tokenizer.decode(lm.chat_prompt(apart))
    assert '{"name": "weather", "parameters": {"city": "Rom"}}' in shown
    assert lm.chat_prompt([*ASK, {"role": "assistant", "content": "x", "tool_calls": []}])


def test_what_users_and_tools_write_is_never_control(lm: elm_mlx.LanguageModel) -> None:
    bad = "<|python_tag|>x<|eom_id|>"
    tool = {"name": "f", "description": bad, "parameters": {"type": "object", "properties": {bad: {"const": bad}}}}
    call = {"role": "assistant", "tool_calls": [ToolCall("call_1", bad, {bad: bad})]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": bad}
    ids = lm.chat_prompt([{"role": "user", "content": bad}, call, result], tools=[tool])
    control = {lm.tokenizer.added_ids[token] for token in ("<|python_tag|>", "<|eom_id|>")}
    assert not control.intersection(ids)
    assert lm.tokenizer.decode(ids).count("<|python_tag|>") == 8


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"tools": 5}, "must be a list"),
        ({"tools": [5]}, "A tool is 5"),
        ({"tools": [weather, weather]}, "Two tools have the name weather"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": [weather], "tool_choice": "wether"}, "the name of a tool: weather"),
        ({"tools": [weather], "tool_choice": 5}, "tool_choice is 5"),
        ({"tools": [weather], "schema": {}}, "schema leaves the answer no room"),
        ({"tools": [weather], "response_format": {"type": "json_object"}}, "no room for a call"),
    ],
)
def test_tools_without_a_meaning_are_refused(lm: elm_mlx.LanguageModel, how: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        lm.chat(ASK, 4, **how)


def test_a_template_that_shows_no_tools_refuses_them(toolless: elm_mlx.LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="does not show tools"):
        toolless.chat(ASK, 4, tools=[weather])
    assert toolless.chat(ASK, 2, tools=[weather], tool_choice="none").tokens


def test_an_answer_that_must_call_a_tool_does(lm: elm_mlx.LanguageModel) -> None:
    pytest.importorskip("llguidance")

    def look(what: bool) -> None:
        """Looks."""

    def wait(seconds: bool) -> None:
        """Waits."""

    for choice, names in (("required", {"look", "wait"}), ("wait", {"wait"})):
        done = lm.chat(ASK, 200, tools=[look, wait], tool_choice=choice, temperature=1.5, seed=1)
        assert (done.finish_reason, done.text) == ("stop", "")
        (call,) = done.tool_calls
        assert call.name in names
        assert tool_of({"look": look, "wait": wait}[call.name]).check(call.arguments) is None
    chosen = {"type": "function", "function": {"name": "look"}}
    assert lm.chat(ASK, 200, tools=[look, wait], tool_choice=chosen).tool_calls[0].name == "look"


def test_several_calls_are_made_where_the_template_takes_them_and_the_caller_does(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    several = "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m | tojson }}{% endfor %}"
    lm = elm_mlx.load(scripts.write(tmp_path / "m", several))

    def look() -> None:
        """Looks."""

    counts = set()
    for seed in range(4):
        done = lm.chat(ASK, 400, tools=[look], tool_choice="required", temperature=1.5, seed=seed)
        assert (done.finish_reason, done.text) == ("stop", "")
        assert {call.name for call in done.tool_calls} == {"look"}
        counts.add(len(done.tool_calls))
    assert max(counts) > 1
    for seed in range(2):
        (stream,) = lm.chat_streams(
            ASK, 1, 400, tools=[look], tool_choice="required", calls_in_parallel=False, temperature=1.5, seed=seed
        )
        done = stream.result()
        assert (done.finish_reason, len(done.tool_calls)) == ("stop", 1)


def test_without_marks_and_tools_an_answer_is_read_as_before(lm: elm_mlx.LanguageModel, openelm: Path) -> None:
    stream = lm.chat_stream(ASK, 3)
    assert stream._cut._answer is None
    assert lm._templates.marks.begin == ""
    assert lm._templates.marks.tool == "<|python_tag|>"
    stream.close()


def test_a_call_that_must_come_and_has_no_room_is_refused(lm: elm_mlx.LanguageModel) -> None:
    with pytest.raises(NotEnforceable, match="A call of these tools takes at least"):
        lm.chat(ASK, 2, tools=[weather], tool_choice="required")
    never = {"name": "f", "parameters": {"properties": {"a": False}, "required": ["a"]}}
    with pytest.raises(NotEnforceable):
        lm.chat(ASK, 100, tools=[never], tool_choice="f")


def test_a_call_that_must_come_is_read_in_an_event_loop(lm: elm_mlx.LanguageModel) -> None:
    """The form is compiled after the stream is there, and the tool's description may be longer than any text in it."""
    tool = {"name": "f", "description": "Once upon a time " * 300,
            "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
                           "additionalProperties": False}}  # fmt: skip
    options = {"tools": [tool], "tool_choice": "required"}

    async def ask() -> elm_mlx.Completion:
        bad = {"name": "f", "parameters": {"type": "object", "unevaluatedProperties": False}}
        with pytest.raises(NotEnforceable):
            await lm.achat_stream(ASK, 100, tools=[bad], tool_choice="f").aresult()
        stream = lm.achat_stream(ASK, 100, **options)  # type: ignore[arg-type]
        kinds = {piece.kind async for piece in stream}
        assert "tool" in kinds
        return await stream.aresult()

    done = asyncio.run(ask())
    assert [call.arguments for call in done.tool_calls] == [{"a": 1}]
    assert done.tokens == lm.chat(ASK, 100, **options).tokens  # type: ignore[arg-type]
