"""An answer's text in parts: the forms of calls, reasoning, and whatever looks like one of them and is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.marks import Marks
from elm_mlx.text.parts import CallRules, Part, Parts, joined

TAG = "\x01"  # stands for the token <|python_tag|>, which has no text
MARKS = Marks("<think>", "</think>", "<|python_tag|>", {7: "<|python_tag|>"})
SCHEMAS = {"weather": {"properties": {"days": {"type": "integer"}}}, "look": {}}
CALL = '{"name": "weather", "parameters": {"city": "Zürich", "days": 2}}'
ARGUMENTS = {"city": "Zürich", "days": 2}
each_count = pytest.mark.parametrize("count", [15, pytest.param(3000, marks=pytest.mark.slow)])
WORDS = [*'{}[]()<>,;:=\\"\' \nx', '"name"', '"f"', '"parameters"', ": ", '{"name": "', '"parameters": {', "f(", "a=",
         "1", "<function=", "f>", "</function>", "</func", "<think>", "</think>", TAG, "look.call(",
         'brave_search.call(q="', '")', CALL, "[look(a=1), f()]", "Hello", "é", "null"]  # fmt: skip


def read(pieces: list[str], *, calls: bool = True, is_whole: bool = True, inside: bool = False) -> list[Part]:
    """The parts of an answer whose text comes in these pieces."""
    parts, found = Parts(MARKS, CallRules(SCHEMAS, "key") if calls else None, inside), []
    for piece in pieces:
        first, *others = piece.split(TAG)
        found += parts.feed(first)
        for other in others:
            found += [*parts.mark("<|python_tag|>"), *parts.feed(other)]
    return joined([*found, *parts.end(is_whole=is_whole)])


def calls_of(text: str, **how: Any) -> list[tuple[str, Any]]:
    return [(part.call.name, dict(part.call.arguments)) for part in read([text], **how) if part.call]


def shown(text: str, kind: str = "text", **how: Any) -> str:
    return "".join(part.text for part in read([text], **how) if part.kind == kind)


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"{TAG}{CALL}",
        f"\n {CALL}\n",
        '{"type": "function", "name": "weather", "parameters": {"city": "Z\\u00fcrich", "days": "2"}}',
        '{"parameters": {"city": "Zürich", "days": 2}, "name": "weather"}',
        '{"name": "weather", "arguments": "{\\"city\\": \\"Zürich\\", \\"days\\": 2}"}',
        f"[{CALL}]",
        '<function=weather>{"city": "Zürich", "days": 2}</function>',
        '<function=weather> {"city": "Zürich", "days": 2}',
        "[weather(city='Zürich', days=2)]",
        f'{TAG}weather(city="Zürich", days=2)',
        f'{TAG}weather.call(city="Zürich", days="2")',
        'weather.call(city="Zürich", days="2")',
    ],
)
def test_every_form_of_a_call_is_read(text: str) -> None:
    assert calls_of(text) == [("weather", ARGUMENTS)]
    assert shown(text) == ""
    assert shown(text, "tool") == text.replace(TAG, "")


def test_several_calls_come_in_their_order_with_ids_of_their_own() -> None:
    twice = [("weather", ARGUMENTS)] * 2
    for text in (f"{CALL}; {CALL}", f"{CALL}\n{CALL}\n", f"[{CALL}, {CALL}]", f"<function=look>{{}}</function>{CALL}"):
        found = [part.call for part in read([text]) if part.call]
        assert len({call.id for call in found}) == 2
        assert all(call.id.startswith("call_") for call in found)
        assert [(call.name, call.arguments) for call in found] in (twice, [("look", {}), *twice[:1]])
        assert shown(text) == ""
    assert calls_of("[look(a=[1, (2.5, -3)], b={'k': None}), weather(days='7', on=true,), ]") == [
        ("look", {"a": [1, [2.5, -3]], "b": {"k": None}}),
        ("weather", {"days": 7, "on": True}),
    ]


def test_text_after_a_call_is_text_and_a_call_amid_text_needs_its_tag() -> None:
    assert shown(f"{CALL}\n\nThat will do.") == "That will do."
    assert calls_of(f"{CALL} and more") == [("weather", ARGUMENTS)]
    assert shown(f"I call {CALL}") == f"I call {CALL}"
    assert calls_of('Well: <function=look>{"a": "</function>"}</function> done') == [("look", {"a": "</function>"})]
    assert shown(f"Wait.{TAG}{CALL}") == "Wait."


def test_what_follows_the_tag_and_is_no_call_is_a_program() -> None:
    code = "import math\nprint([math.pi, {'a': 1}])\n"
    assert calls_of(TAG + code) == [("code_interpreter", {"code": code})]
    assert calls_of(f"{TAG}print(a=1)") == [("code_interpreter", {"code": "print(a=1)"})]
    assert calls_of(f"{TAG}{{'a': 1}}") == [("code_interpreter", {"code": "{'a': 1}"})]
    assert calls_of(f'{TAG}brave_search.call(query="who said "no"?")') == [
        ("brave_search", {"query": 'who said "no"?'})
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        '{"name": "Bob", "age": 3}',
        '{"name": "weather"}',
        '{"name": "weather", "parameters": [1]}',
        '{"name": "weather", "parameters": {"a": NaN}}',
        '{"name": "weather", "parameters": {"a": 1e999}}',
        '{"name": "weather", "parameters": {"a": "\\ud800"}}',
        '{"name": "weather", "parameters": "' + "[" * 500 + "]" * 500 + '"}',
        '{"name": "weather", "parameters": "{\\"a\\": ' + "[" * 500 + "]" * 500 + '}"}',
        '{"name": "", "parameters": {}}',
        '{"name": 5, "parameters": {}}',
        '{"type": "object", "name": "a", "parameters": {}}',
        '{"name": "weather", "parameters": {}, "arguments": {}}',
        f'{{"name": "weather", "parameters": {"[" * 70}{"]" * 70}}}',
        f'{{"name": "weather", "parameters": {{"a": {"9" * 5000}}}}}',
        "[1] Smith, 2004.",
        "[link](https://example.org)",
        "[look('x')]",
        "[look(a=b)]",
        "[look(a=1, a=2)]",
        "[look(a=__import__('os').system('true'))]",
        "[look(a=1+1)]",
        "[look(a=f'x')]",
        "[look(a='\\N{no such name}')]",
        "[look(a='\\ud800')]",
        "[look(a=007x)]",
        "[]",
        "<function=look>[1]</function>",
        "<function=look>{} </fun",
        "<function=look>{}</function",
        "<functional>",
        "lookout",
        "look.call(query=5)",
        "brave_search.call(",
        "brave_search",
    ],
)
def test_what_looks_like_a_call_and_is_none_is_text_unchanged(text: str) -> None:
    assert read([text]) == [Part("text", text)]
    assert read(list(f"{text}\n")) == [Part("text", f"{text}\n")]


@pytest.mark.parametrize(
    "text", [f"{TAG}{CALL}", CALL, "[look(a=1)]", "<function=look>{}</function>", f"{TAG}print(1)"]
)
def test_a_call_that_is_cut_is_text_and_one_that_was_whole_before_stays(text: str) -> None:
    for end in range(1, len(text)):
        assert (
            read([text[:end]], is_whole=False) == [Part("text", text[:end].replace(TAG, ""))][: end - text.count(TAG)]
        )
    assert bool(calls_of(text, is_whole=False)) == ("print" not in text)


def test_reasoning_is_a_part_of_its_own_and_calls_nothing() -> None:
    text = f"<think>\nLet me see: {CALL}</think>\n\nIt is fine."
    assert read([text]) == [Part("reasoning", f"Let me see: {CALL}"), Part("text", "It is fine.")]
    assert read(["\nYes", "</thi", "nk>", CALL], inside=True)[0] == Part("reasoning", "Yes")
    assert calls_of(f"Yes</think> {CALL}", inside=True) == [("weather", ARGUMENTS)]
    assert read(["<think>\n\n</think>\n\nNo"]) == [Part("text", "No")]
    assert read(["<think>cut"], calls=False) == [Part("reasoning", "cut")]
    assert read(["a <thinner> </think>"]) == [Part("text", "a <thinner> </think>")]


def test_nothing_is_called_where_no_tools_were_given() -> None:
    for text in (CALL, "[look(a=1)]", "<function=look>{}</function>"):
        assert read([TAG + text], calls=False) == [Part("text", text)]


@each_count
def test_any_text_gives_the_same_parts_however_it_is_cut_and_loses_no_character(count: int) -> None:
    @settings(max_examples=count)
    @given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=14), st.data())
    def check(words: list[str], data: st.DataObject) -> None:
        text = "".join(words)
        how = {name: data.draw(st.booleans()) for name in ("calls", "is_whole", "inside")}
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        whole = read([text], **how)
        assert read(pieces, **how) == read(list(text), **how) == whole
        said = "".join(part.text for part in whole)
        if "think>" not in text and not how["inside"]:
            assert said == text.replace(TAG, "")
        elif how["inside"] and "think>" not in text:
            assert said == text.replace(TAG, "").lstrip()

    check()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one, max_size=3),
    max_leaves=8,
)
NASTY = st.sampled_from(['"', "'", "\\", '\\"', "{", "}]", "</function>", "</think>", "\n", "\0", "\u2028", "'''", "é"])
TEXTS = st.lists(NASTY | st.text(max_size=3), max_size=6).map("".join)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("None", "True"))


@each_count
def test_hostile_arguments_come_back_from_every_form(count: int) -> None:
    @settings(max_examples=count)
    @given(NAMES, st.dictionaries(NAMES, VALUES | TEXTS, max_size=3), st.booleans())
    def check(name: str, arguments: dict[str, Any], ascii_only: bool) -> None:
        written = json.dumps(arguments, ensure_ascii=ascii_only)
        python = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        for text in (
            f'{{"name": "{name}", "parameters": {written}}}',
            f"<function={name}>{written}</function>",
            f"[{name}({python})]",
        ):
            found = [part.call for part in read([text[:9], text[9:]]) if part.call]
            assert [(call.name, call.arguments) for call in found] == [(name, arguments)], text

    check()


@pytest.mark.parametrize("size", [300_000, pytest.param(4_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "form", ['{"name": "f", "parameters": {"a": "?"}}', '[f(a="?")]', '<function=f>{"a": "?"}</function>', "{?", "?"]
)
def test_long_hostile_arguments_are_read_as_fast_as_they_come(form: str, size: int) -> None:
    """At a cost of the square this would never end."""
    text = form.replace("?", '\\"{[</function><function=' * (size // 25))
    parts = read([text[place : place + 50] for place in range(0, len(text), 50)])
    assert "".join(part.text for part in parts) == text
    assert bool(parts[0].call) == form.endswith(("}", "]", ">"))


def test_what_no_message_may_say_again_is_no_call() -> None:
    deep, long = "[" * 60 + "]" * 60, "9" * 401
    for value in (deep, long):
        for text in (f'{{"name": "look", "parameters": {{"a": {value}}}}}', f"[look(a={value})]"):
            assert (calls_of(text), shown(text)) == ([], text)
