"""Calls that transformers renders by the templates of other families are read back from what they made the model's."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import callers
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.text.chat.template import ChatTemplate
from elm_mlx.text.marks import Marks
from elm_mlx.text.parts import CallRules, Parts
from elm_mlx.text.tools.wordings import KNOWN

pytestmark = pytest.mark.parity
base = pytest.importorskip("transformers.tokenization_utils_base")

USER = {"role": "user", "content": "Hi"}
NASTY = st.sampled_from(['"', "'", "\\", "{", "}]", "</tool_call>", "[ARGS]", "\n", "é", "<b>&", "</function>"])
TEXTS = st.lists(NASTY | st.text(max_size=3), max_size=6).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXTS, one, max_size=3),
    max_leaves=6,
)
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
TYPES = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}


class Theirs(base.PreTrainedTokenizerBase):
    """transformers' apply_chat_template, without a tokenizer behind it."""


def said(caller: callers.Caller, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """What the assistant says in some calls, as transformers renders it, up to the token that ends the turn."""
    theirs = Theirs(chat_template=caller.template, bos_token="<s>", eos_token=caller.end)
    listed = [{"id": "abc123XYZ", "type": "function", "function": {"name": name, "arguments": arguments}}
              for name, arguments in calls]  # fmt: skip
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": listed}, USER]
    before = theirs.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    after = theirs.apply_chat_template(messages, tokenize=False)
    last = theirs.apply_chat_template([USER], tokenize=False).removeprefix("<s>")
    assert after.startswith(before)
    return str(after[len(before) :]).strip().removesuffix(last.strip()).rstrip().removesuffix(caller.end)


def calls_of(text: str, caller: callers.Caller, schemas: dict[str, Any], step: int) -> list[tuple[str, Any]]:
    """The calls of a text that comes in pieces of `step` characters."""
    wording = ChatTemplate(caller.template, {"bos_token": "<s>", "eos_token": caller.end}).wording
    assert wording in KNOWN
    parts, found = Parts(Marks(wording=wording), CallRules(schemas, "key")), []
    for place in range(0, len(text), step):
        found += parts.feed(text[place : place + step])
    return [(part.call.name, part.call.arguments) for part in [*found, *parts.end(is_whole=True)] if part.call]


def types_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """A schema that names the types of these arguments."""
    return {"properties": {key: {"type": TYPES.get(type(value), "string")} for key, value in arguments.items()}}


@pytest.mark.parametrize("kind", list(callers.CALLERS))
def test_calls_of_the_template_come_back(kind: str) -> None:
    caller = callers.CALLERS[kind]

    @settings(max_examples=25)
    @given(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), st.integers(1, 2), st.integers(1, 9))
    def check(name: str, arguments: dict[str, Any], count: int, step: int) -> None:
        text = said(caller, [(name, arguments)] * count)
        schemas = {name: types_of(arguments)}
        assert calls_of(text, caller, schemas, step) == [(name, arguments)] * count, text

    check()


@pytest.mark.parametrize("kind", list(callers.CALLERS))
def test_a_conversation_with_calls_is_rendered_as_transformers_does(kind: str) -> None:
    caller = callers.CALLERS[kind]
    tokens = {"bos_token": "<s>", "eos_token": caller.end}
    call = {
        "id": "abc123XYZ",
        "type": "function",
        "function": {"name": "f", "arguments": {"a": "é <b>", "n": [1, None]}},
    }
    result = {"role": "tool", "tool_call_id": "abc123XYZ", "content": "18° <sunny>"}
    tool = {"type": "function", "function": {"name": "f", "description": "<&>", "parameters": {"type": "object"}}}
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": [call, call]}, result, result, USER]
    theirs = Theirs(chat_template=caller.template, **tokens)
    for length in (1, 3, 4, 5):
        for tools in (None, [tool]):
            wanted = theirs.apply_chat_template(
                messages[:length], tools=tools, tokenize=False, add_generation_prompt=True
            )
            assert ChatTemplate(caller.template, tokens).render(messages[:length], tools=tools) == wanted
