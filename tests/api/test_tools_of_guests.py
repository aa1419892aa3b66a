"""Tools with the templates and tokens of other families: calls are read and enforced in their words, and said again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import callers, scripts

import elm_mlx
from elm_mlx.api.call_forms import CallForms
from elm_mlx.api.tools import tool_of
from elm_mlx.errors import NotEnforceable
from elm_mlx.text.marks import Marks
from elm_mlx.text.tools import ToolCall
from elm_mlx.text.tools import wordings as known

ASK = [{"role": "user", "content": "Hi"}]
ARGUMENTS = {"city": 'Zü "天"', "days": 2}
JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
TAGS = f"<function=weather>\n<parameter=city>\n{ARGUMENTS['city']}\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
WRAPPED = f'<tool_call>\n{{"name": "weather", "arguments": {JSON}}}\n</tool_call>'
OBJECT = f'{{"name": "weather", "arguments": {JSON}'
WORDINGS = {
    "qwen": known.QWEN, "hermes": known.QWEN, "coder": known.QWEN_TAGS, "mistral": known.MISTRAL_LISTS[0],
    "nemo": known.MISTRAL_LISTS[1], "small": known.MISTRAL_NAMES[1], "devstral": known.MISTRAL_NAMES[0],
}  # fmt: skip
TWICE = {  # what each says of two calls
    "qwen": f"{WRAPPED}\n{WRAPPED}",
    "hermes": f"{WRAPPED}\n{WRAPPED}",
    "coder": f"<tool_call>\n{TAGS}</function>\n</tool_call>\n<tool_call>\n{TAGS}</function>\n</tool_call>",
    "mistral": f'[TOOL_CALLS] [{OBJECT}, "id": "abcdefghi"}}, {OBJECT}}}]',
    "nemo": f"[TOOL_CALLS][{OBJECT}}}, {OBJECT}}}]",
    "small": f"[TOOL_CALLS]weather[CALL_ID]abc123XYZ[ARGS]{JSON}" * 2,
    "devstral": f"[TOOL_CALLS]weather[ARGS]{JSON}" * 2,
}


def weather(city: str, days: int = 1) -> str:
    """Tells the weather."""
    raise AssertionError(f"the library ran a tool for {city}, {days}")


FEW = ("qwen", "small")  # the others are slow together
KINDS = [kind if kind in FEW else pytest.param(kind, marks=pytest.mark.slow) for kind in callers.CALLERS]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lm(kind: str, tmp_path_factory: pytest.TempPathFactory) -> elm_mlx.LanguageModel:
    return elm_mlx.load(callers.write(tmp_path_factory.mktemp("callers") / "m", callers.CALLERS[kind]))


def spelled(lm: elm_mlx.LanguageModel, ids: Sequence[int]) -> str:
    """The text of some ids, with that of the tokens that are not shown."""
    shown = {i: text for text, i in lm.tokenizer.added_ids.items()}
    return "".join(shown.get(token) or lm.tokenizer.decode([token]) for token in ids)


def test_the_words_of_a_family_are_seen_in_its_template(kind: str, lm: elm_mlx.LanguageModel) -> None:
    assert lm._templates.call_marks.wording is WORDINGS[kind]
    assert lm._templates.takes_several_calls()


def test_calls_in_the_words_of_a_family_come_as_calls_and_no_token_is_shown(
    kind: str, lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = callers.CALLERS[kind].end
    scripts.say(monkeypatch, lm, f"I look.\n{TWICE[kind]}{end}")
    done = lm.chat(ASK, 900, tools=[weather], seed=1)
    assert [(call.name, call.arguments) for call in done.tool_calls] == [("weather", ARGUMENTS)] * 2
    assert (done.text.strip(), done.finish_reason) == ("I look.", "stop")
    assert len({call.id for call in done.tool_calls}) == 2
    pieces = list(lm.chat_stream(ASK, 900, tools=[weather], seed=1))
    assert "".join(piece.text for piece in pieces) == lm.tokenizer.decode(done.tokens)
    assert not any(mark in piece.text for piece in pieces for mark in callers.CALLERS[kind].special)
    assert lm.chat(ASK, 900).text == lm.tokenizer.decode(done.tokens)  # without tools nothing is called


def test_a_call_that_the_length_cuts_is_none(
    kind: str, lm: elm_mlx.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.say(monkeypatch, lm, f"{TWICE[kind]}{callers.CALLERS[kind].end}")
    whole = lm.chat(ASK, 900, tools=[weather]).tokens
    for length in (1, 9, 30):
        done = lm.chat(ASK, length, tools=[weather])
        assert (done.text, done.tool_calls) == (lm.tokenizer.decode(whole[:length]), ())


def test_an_answer_that_must_call_a_tool_does_in_the_words_of_the_family(kind: str, lm: elm_mlx.LanguageModel) -> None:
    pytest.importorskip("llguidance")

    def look(what: bool, where: int | None = None) -> None:
        """Looks."""

    tool, counts = tool_of(look), set()
    for seed in range(3):
        done = lm.chat(ASK, 400, tools=[look], tool_choice="required", temperature=1.5, seed=seed)
        assert (done.finish_reason, done.text) == ("stop", "")
        assert all(tool.check(call.arguments) is None for call in done.tool_calls)
        counts.add(len(done.tool_calls))
    assert min(counts) > 0
    (stream,) = lm.chat_streams(ASK, 1, 400, tools=[look, weather], tool_choice="look", calls_in_parallel=False, seed=1)
    one = stream.result()
    assert [call.name for call in one.tool_calls] == ["look"]
    assert spelled(lm, one.tokens).startswith(f"{WORDINGS[kind].start}{WORDINGS[kind].before}look")


def test_what_was_called_is_said_again(kind: str, lm: elm_mlx.LanguageModel) -> None:
    calls = [ToolCall(f"call_{number}", "weather", ARGUMENTS) for number in (1, 2)]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in calls]
    ids = lm.chat_prompt([*ASK, {"role": "assistant", "content": None, "tool_calls": calls}, *results, *ASK])
    said = lm.tokenizer.decode(ids)
    assert said.count("weather") == 2
    words = WORDINGS[kind]
    assert spelled(lm, ids).count(words.start or words.before) == (1 if words.start else 2)


def test_nobody_writes_a_call_into_a_prompt(kind: str, lm: elm_mlx.LanguageModel) -> None:
    marks = WORDINGS[kind].marks
    ids = lm.chat_prompt([{"role": "user", "content": " ".join(marks)}])
    assert not {lm.tokenizer.added_ids.get(mark) for mark in marks}.intersection(ids)


def test_reasoning_comes_before_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = elm_mlx.load(callers.write(tmp_path / "m", callers.CALLERS["qwen"]))
    scripts.say(monkeypatch, lm, f"<think>\nShall I {WRAPPED}?\n</think>\n\n{WRAPPED}<|im_end|>")
    done = lm.chat(ASK, 900, tools=[weather])
    assert (done.reasoning, done.text) == (f"Shall I {WRAPPED}?\n", "")
    assert [call.arguments for call in done.tool_calls] == [ARGUMENTS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "is_enforced"),
    [
        ({"properties": {"a": {"enum": ["x", "</p>"]}, "b": {"type": "string"}}, "required": ["b", "a"]}, True),
        ({"properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$defs": {"n": {"type": "null"}}},
         True),
        ({"properties": {"a": {"type": "string", "pattern": "x+"}}}, False),
        ({"properties": {"a": {}}}, False),
        ({"patternProperties": {"a": {"type": "null"}}}, False),
        ({"properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}}, "required": ["a"]}, True),
        ({"properties": {"a": {"enum": ["x", 1]}}, "required": ["a"]}, True),
        ({"properties": {"a": {"enum": 5}}}, False),
        ({"properties": {"a>b": {"type": "null"}}}, False),
    ],
)  # fmt: skip
def test_arguments_between_tags_are_enforced_or_refused_with_the_reason(
    tmp_path: Path, schema: dict[str, Any], is_enforced: bool
) -> None:
    pytest.importorskip("llguidance")
    lm = elm_mlx.load(callers.write(tmp_path / "m", callers.CALLERS["coder"]))
    tool = {"name": "f", "parameters": {"type": "object", **schema}}
    if not is_enforced:
        with pytest.raises(NotEnforceable, match="tool_choice=auto"):
            lm.chat(ASK, 600, tools=[tool], tool_choice="required")
        return
    for seed in range(3):
        done = lm.chat(ASK, 600, tools=[tool], tool_choice="required", seed=seed)
        if done.finish_reason == "stop":  # texts may go on for long
            assert {tool_of(tool).check(call.arguments) for call in done.tool_calls} == {None}


def test_a_template_that_is_given_says_how_calls_are_worded(tmp_path: Path) -> None:
    (tmp_path / "coder.jinja").write_text(callers.CALLERS["coder"].template)
    with elm_mlx.load(callers.write(tmp_path / "m", callers.CALLERS["qwen"])) as lm:
        assert lm._templates.call_marks.wording is known.QWEN
        lm.use_chat_template(tmp_path / "coder.jinja")
        assert lm._templates.call_marks.wording is known.QWEN_TAGS


@pytest.mark.parametrize("name", ["", "a>b", "<a", "a\nb", "n" * 257])
def test_a_name_that_no_tag_can_have_is_refused(name: str) -> None:
    tool = tool_of({"name": "f", "parameters": {"type": "object", "properties": {name: {"type": "null"}}}})
    with pytest.raises(NotEnforceable, match="Name it otherwise"):
        CallForms(Marks(wording=known.QWEN_TAGS)).form([tool], 1)


@pytest.mark.parametrize("required", [5, "a", ["b"], [["a"]]])
def test_a_schema_that_requires_what_it_has_not_is_refused(required: object) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "null"}}, "required": required}
    with pytest.raises(NotEnforceable, match="it must be a list of names"):
        CallForms(Marks(wording=known.QWEN_TAGS)).form([tool_of({"name": "f", "parameters": parameters})], 1)
