"""A call that transformers renders by a template is read back from the text that the template made the model's own."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import chat_templates as written
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.marks import PYTHON_TAG, Marks
from elm_mlx.text.parts import CallRules, Parts

pytestmark = pytest.mark.parity
base = pytest.importorskip("transformers.tokenization_utils_base")

MARKS = Marks(tool=PYTHON_TAG, ids={1: PYTHON_TAG})
NASTY = st.sampled_from(['"', "'", "\\", '\\"', "{", "}]", ")", '")', "</function>", "\n", "\0", "\u2028", "é", "<b>&"])
TEXTS = st.lists(NASTY | st.text(max_size=3), max_size=6).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


class Theirs(base.PreTrainedTokenizerBase):
    """transformers' apply_chat_template, without a tokenizer behind it."""


def said(template: str, name: str, arguments: dict[str, Any], **variables: Any) -> str:
    """What the assistant says in a call, as transformers renders it."""
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [written.USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    theirs = Theirs(chat_template=template, **written.TOKENS)
    shown = theirs.apply_chat_template(messages, tokenize=False, date_string="02 Jan 2025", **variables)
    _, text = shown.split("<|start_header_id|>assistant<|end_header_id|>\n\n")
    return str(text).removesuffix("<|eot_id|>").removesuffix("<|eom_id|>")


def calls_of(text: str, step: int) -> list[tuple[str, Any]]:
    """The calls of a text that comes in pieces of `step` characters, the token <|python_tag|> as a mark."""
    parts = Parts(MARKS, CallRules({}, "key"))
    before, tag, after = text.partition(PYTHON_TAG)
    found = []
    for place in range(0, len(before), step):
        found += parts.feed(before[place : place + step])
    if tag:
        found += parts.mark(PYTHON_TAG)
    for place in range(0, len(after), step):
        found += parts.feed(after[place : place + step])
    return [(part.call.name, part.call.arguments) for part in [*found, *parts.end(is_whole=True)] if part.call]


@pytest.mark.parametrize("template", [written.LLAMA_31, written.LLAMA_32])
def test_a_call_of_the_template_comes_back(template: str) -> None:
    @settings(max_examples=100)
    @given(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), st.integers(1, 7))
    def check(name: str, arguments: dict[str, Any], step: int) -> None:
        text = said(template, name, arguments, tools=[written.TOOL])
        assert calls_of(text, step) == [(name, arguments)]

    check()


def test_a_call_of_a_built_in_tool_comes_back_whatever_quotes_it_has() -> None:
    @settings(max_examples=100)
    @given(TEXTS.filter(lambda text: PYTHON_TAG not in text), st.integers(1, 7))
    def check(query: str, step: int) -> None:
        text = said(written.LLAMA_31, "brave_search", {"query": query}, builtin_tools=["brave_search"])
        assert text.startswith(PYTHON_TAG)
        assert calls_of(text, step) == [("brave_search", {"query": query})]

    check()


def test_the_template_of_3_1_refuses_two_calls_in_a_message() -> None:
    """Why `elm_mlx.text.chat.calls.one_call_a_message` is there."""
    twice = {**written.CALLING, "tool_calls": written.CALLING["tool_calls"] * 2}
    with pytest.raises(Exception, match="One tool call"):
        Theirs(chat_template=written.LLAMA_31, **written.TOKENS).apply_chat_template(
            [written.USER, twice], tokenize=False
        )
