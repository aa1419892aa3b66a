"""Calls in the words of other families than Llama: whole, cut, damaged, and in pieces of any size."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.marks import Marks
from elm_mlx.text.parts import CallRules, Part, Parts, joined
from elm_mlx.text.tools import wordings as known
from elm_mlx.text.tools.wordings import Wording

NAMES = {"\x01": "[TOOL_CALLS]", "\x02": "[ARGS]", "\x03": "[CALL_ID]", "\x04": "<tool_call>", "\x05": "</tool_call>"}
SCHEMAS = {"f": {"properties": {"n": {"type": "integer"}, "on": {"type": "boolean"}, "a": {"type": "array"}}}}
WORDS = [*'{}[]()<>,:"\\ \nx', '"name"', '"f"', '"arguments"', "f", "<function=f>", "</function>", "<parameter=a>\n",
         "\n</parameter>\n", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {}}', "{}", "[TOOL_CALLS]",
         "[ARGS]", *NAMES]  # fmt: skip
ALL = pytest.mark.parametrize("wording", [known.QWEN, known.QWEN_TAGS, known.MISTRAL_LISTS[0], known.MISTRAL_NAMES[1]],
                              ids=["qwen", "tags", "lists", "names"])  # fmt: skip
each_count = pytest.mark.parametrize("count", [40, pytest.param(3000, marks=pytest.mark.slow)])


def read(pieces: list[str], wording: Wording, *, is_whole: bool = True) -> list[Part]:
    """The parts of an answer whose text comes in these pieces; a letter of NAMES is a token without a text."""
    parts, found = Parts(Marks(ids=dict(enumerate(NAMES.values())), wording=wording), CallRules(SCHEMAS, "key")), []
    for piece in pieces:
        for letter in piece:
            found += parts.mark(NAMES[letter]) if letter in NAMES else parts.feed(letter)
    return joined([*found, *parts.end(is_whole=is_whole)])


def shown(pieces: list[str], wording: Wording, **how: Any) -> list[Part]:
    """The same where all marks are texts that are shown, piece by piece."""
    parts, found = Parts(Marks(wording=wording), CallRules(SCHEMAS, "key")), []
    for piece in pieces:
        found += parts.feed(piece)
    return joined([*found, *parts.end(**how)])


def calls_of(parts: list[Part]) -> list[tuple[str, Any]]:
    return [(part.call.name, part.call.arguments) for part in parts if part.call]


def text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if part.kind == "text")


@pytest.mark.parametrize(
    ("wording", "text"),
    [
        (known.QWEN, '<tool_call>\n{"name": "f", "arguments": {"n": 2}}\n</tool_call>'),
        (known.QWEN, '<tool_call>{"arguments": {"n": "2"}, "name": "f"}'),
        (known.QWEN, '\x04\n{"name": "f", "arguments": {"n": 2}}\n\x05'),
        (known.QWEN_TAGS, "<tool_call>\n<function=f>\n<parameter=n>\n2\n</parameter>\n</function>\n</tool_call>"),
        (known.QWEN_TAGS, "<tool_call><function=f><parameter=n>2</parameter></function>"),
        (known.MISTRAL_LISTS[0], '\x01 [{"name": "f", "arguments": {"n": 2}, "id": "abcdefghi"}]'),
        (known.MISTRAL_LISTS[0], '[TOOL_CALLS][{"name": "f", "arguments": {"n": 2}}]'),
        (known.MISTRAL_NAMES[0], '\x01f\x02{"n": 2}'),
        (known.MISTRAL_NAMES[0], '\x01f\x03abcdefghi\x02{"n": 2}'),
        (known.MISTRAL_NAMES[0], '[TOOL_CALLS]f{"n": 2}'),
        (known.MISTRAL_NAMES[0], '[TOOL_CALLS] f[CALL_ID]abcdefghi[ARGS] {"n": 2}'),
    ],
)
def test_a_call_is_read_anywhere_and_none_where_it_is_cut(wording: Wording, text: str) -> None:
    reader = read if any(letter in text for letter in NAMES) else shown
    for before in ("", "\n", "Well: "):
        found = reader([before, text], wording, is_whole=True)
        assert calls_of(found) == [("f", {"n": 2})]
        assert text_of(found).strip() == before.strip()
    for end in range(1, len(text) - 1):
        if calls_of(found := reader([text[:end]], wording, is_whole=False)):
            assert text.startswith("<tool_call>{") or text[end:].strip() in ("\x05", "")
        else:
            assert text_of(found) == "".join(letter for letter in text[:end] if letter not in NAMES)


@pytest.mark.parametrize(
    ("wording", "text"),
    [
        (known.QWEN, "<tool_call>yes"),
        (known.QWEN, '<tool_call>\n{"name": "f"}\n</tool_call>'),
        (known.QWEN, '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>'),
        (known.QWEN, '<tool_call>\n{"name": "f", "arguments": {}} and\n</tool_call>'),
        (known.QWEN_TAGS, "<tool_call>\n<function=f>\n<parameter=n>\n2\n</function>\n</tool_call>"),
        (known.QWEN_TAGS, "<tool_call>\n<function=f>\nn = 2\n</function>\n</tool_call>"),
        (known.QWEN_TAGS, "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=n>\n1\n</parameter>\n"
                          "</function>\n</tool_call>"),
        (known.MISTRAL_LISTS[0], "[TOOL_CALLS] [1]"),
        (known.MISTRAL_NAMES[0], "[TOOL_CALLS]f[ARGS][1]"),
        (known.MISTRAL_NAMES[0], "[TOOL_CALLS] said (at length)"),
    ],
)  # fmt: skip
def test_what_looks_like_a_call_and_is_none_is_text_unchanged(wording: Wording, text: str) -> None:
    for pieces in ([text], list(text)):
        assert shown(pieces, wording, is_whole=True) == [Part("text", text)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one, max_size=3),
    max_leaves=6,
)
TEXTS = st.lists(st.sampled_from(['"', "'", "\\", "{", "}]", "</tool_call>", "[ARGS]", "\n", "é", "</function>",
                                  "<tool_call>"]) | st.text(max_size=3), max_size=5).map("".join)  # fmt: skip
KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: name not in SCHEMAS)


@each_count
def test_hostile_arguments_come_back_from_every_form(count: int) -> None:
    @settings(max_examples=count)
    @given(KEYS, st.dictionaries(KEYS, VALUES | TEXTS, max_size=3), st.integers(1, 9))
    def check(name: str, arguments: dict[str, Any], step: int) -> None:
        written = json.dumps(arguments, ensure_ascii=False)
        for wording in (known.QWEN, *known.MISTRAL_LISTS, *known.MISTRAL_NAMES):
            call = f"{wording.before}{name}{wording.middle.replace(known.ID, 'abc123xyz')}{written}{wording.after}"
            text = f"{wording.start}{call}{wording.between}{call}{wording.stop}"
            pieces = [text[place : place + step] for place in range(0, len(text), step)]
            assert calls_of(shown(pieces, wording, is_whole=True)) == [(name, arguments)] * 2, text
        texts = {key: value for key, value in arguments.items() if isinstance(value, str)}
        parts = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in texts.items())
        text = f"<tool_call>\n<function={name}>\n{parts}</function>\n</tool_call>"
        assert calls_of(shown([text[:step], text[step:]], known.QWEN_TAGS, is_whole=True)) == [(name, texts)], text

    check()


@ALL
@each_count
def test_any_text_gives_the_same_parts_however_it_is_cut(wording: Wording, count: int) -> None:
    @settings(max_examples=count)
    @given(st.lists(st.sampled_from(WORDS), max_size=14), st.data())
    def check(words: list[str], data: st.DataObject) -> None:
        text = "".join(words)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        plain = "".join(letter for letter in text if letter not in NAMES)
        assert "".join(part.text for part in read([text], wording)) == plain
        whole = shown([text], wording, is_whole=True)
        assert shown(pieces, wording, is_whole=True) == shown(list(text), wording, is_whole=True) == whole
        assert "".join(part.text for part in whole) == text

    check()


@ALL
def test_long_hostile_calls_are_read_as_fast_as_they_come(wording: Wording) -> None:
    """At a cost of the square this would never end."""
    for words in ("</function>  ", "</parameter>\n<parameter=a>\n", "[TOOL_CALLS]", "<tool_call>", '\\"{['):
        text = (wording.start or wording.before) + "f" + wording.middle.replace(known.ID, "") + words * 20_000
        parts = shown([text[place : place + 50] for place in range(0, len(text), 50)], wording, is_whole=True)
        assert "".join(part.text for part in parts) == text


@pytest.mark.parametrize("after", ["", "y" * 30, "y" * 38, "y" * 39, "y" * 40, "y" * 80])
def test_a_value_may_look_like_the_end_of_a_call_without_arguments(after: str) -> None:
    value = f"<b></function>\n</tool_call>{after}"
    text = f"<tool_call>\n<function=f>\n<parameter=b>\n{value}\n</parameter>\n</function>\n</tool_call>"
    for step in (1, 7, 64, len(text)):
        pieces = [text[place : place + step] for place in range(0, len(text), step)]
        assert calls_of(shown(pieces, known.QWEN_TAGS, is_whole=True)) == [("f", {"b": value})]


def test_a_mark_of_reasoning_amid_a_program_is_no_part_of_it() -> None:
    """It is of no meaning there, and what is called is run."""
    parts = Parts(Marks("<think>", "</think>", "<|python_tag|>", {1: "</think>"}), CallRules({}, "key"))
    found = [*parts.feed("<|python_tag|>a = 1"), *parts.mark("</think>"), *parts.feed("\n"), *parts.end(is_whole=True)]
    assert calls_of(found) == [("code_interpreter", {"code": "a = 1\n"})]
