"""Whatever object a stranger sends to OpenAI's two routes is read or refused in a sentence."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from helpers.spoiled import spoiled
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.openai import chat, completions
from elm_mlx.protocols.openai.table import CHAT_FIELDS, TEXT_FIELDS
from elm_mlx.protocols.refusal import FieldRefused

WORDS = (
    "function auto none required text user assistant system developer tool json_schema json_object image_url weather "
    "default k8v4"
).split()
NAMES = (
    "type role content text name arguments id tool_call_id tool_calls function parameters schema json_schema strict "
    "include_usage regex json reasoning_content enable_thinking 15"
).split()
SPOILED = [None, True, -1, 0, 0.5, 10**400, "", "\x00", "\udcff", [], {}, [[]], {"": {}}]
SIMPLE = st.sampled_from([*WORDS, *SPOILED, "{}", '{"a": 1}']) | st.text(max_size=5) | st.floats() | st.integers()
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=12,
)
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SAMPLING: dict[str, Any] = {
    "model": "demo", "temperature": 1, "top_p": 0.5, "seed": 1, "stop": ["#"], "n": 2, "logit_bias": {"15": 1},
    "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5, "top_k": 3,
}  # fmt: skip
WHOLE: dict[ModuleType, dict[str, Any]] = {
    chat: SAMPLING | {
        "messages": [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                     {"role": "assistant", "content": None, "tool_calls": [CALL]},
                     {"role": "tool", "tool_call_id": "a", "content": "Rain."}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}}, "logprobs": True, "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        "chat_template_kwargs": {"date": "now"},
    },
    completions: SAMPLING | {"prompt": ["Once", [1, 2]], "logprobs": 2, "best_of": 2, "guided_regex": "a+"},
}  # fmt: skip
TABLES = {chat: CHAT_FIELDS, completions: TEXT_FIELDS}
COUNTS = pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
EACH_ROUTE = pytest.mark.parametrize("dialect", [chat, completions], ids=["chat", "completions"])


def check_sentence(error: FieldRefused) -> None:
    assert error.param
    assert error.code
    assert len(str(error)) < 1000


def check(dialect: ModuleType, body: Any, *, strict: bool) -> None:
    """Reads a body, and looks at what comes of it: something to ask, or a sentence about one of its fields."""
    try:
        ask = dialect.read(body, strict=strict)
    except FieldRefused as error:
        check_sentence(error)
        return
    assert isinstance(ask, Ask)
    assert 1 <= ask.answers <= 256
    assert not (strict and ask.ignored)


def check_any(dialect: ModuleType, bodies: st.SearchStrategy[Any], count: int) -> None:
    @settings(max_examples=count)
    @given(bodies, st.booleans())
    def each(body: Any, strict: bool) -> None:
        check(dialect, body, strict=strict)

    each()


@COUNTS
@EACH_ROUTE
def test_any_fields_are_read_or_refused(dialect: ModuleType, count: int) -> None:
    names = [name for table in TABLES[dialect] for name in table]
    one_that_is_needed = "messages" if dialect is chat else "prompt"
    fields = st.dictionaries(st.sampled_from(names) | st.text(max_size=9), VALUES, max_size=6)
    needed = {one_that_is_needed: WHOLE[dialect][one_that_is_needed]}
    check_any(dialect, fields.map(lambda given: needed | given), count)


@COUNTS
@EACH_ROUTE
def test_a_body_that_is_spoiled_in_one_place_is_read_or_refused(dialect: ModuleType, count: int) -> None:
    check_any(dialect, spoiled(WHOLE[dialect], VALUES), count)


@EACH_ROUTE
def test_the_body_that_is_spoiled_is_a_good_one(dialect: ModuleType) -> None:
    assert dialect.read(WHOLE[dialect], strict=True).ignored == ()


@EACH_ROUTE
@pytest.mark.parametrize("value", [[], "x", 5, None, True], ids=str)
def test_what_is_no_object_is_refused(dialect: ModuleType, value: Any) -> None:
    with pytest.raises(FieldRefused):
        dialect.read(value, strict=False)


@EACH_ROUTE
def test_values_that_lie_deep_within_one_another_are_read_or_refused(dialect: ModuleType) -> None:
    deep: Any = []
    for _ in range(900):  # about what the parser lets through
        deep = [deep]
    for name in [name for table in TABLES[dialect] for name in table]:
        for value in (deep, {"type": deep, "function": deep, "json_schema": {"schema": {"a": deep}}}):
            check(dialect, WHOLE[dialect] | {name: value}, strict=False)
