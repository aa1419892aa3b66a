"""Whatever object a stranger sends is read or refused in a sentence; and what was read can be told."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from anthropic.types import Message
from helpers.pieces import answer, call
from helpers.spoiled import spoiled
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response

from elm_mlx.protocols import anthropic, responses
from elm_mlx.protocols.anthropic.table import TABLE as MESSAGES_TABLE
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Facts
from elm_mlx.protocols.known import Known
from elm_mlx.protocols.refusal import FieldRefused
from elm_mlx.protocols.responses.table import TABLE as RESPONSES_TABLE

WORDS = (
    "function auto none required any tool text input_text output_text message user assistant system developer "
    "function_call function_call_output custom reasoning tool_use tool_result thinking json_schema json_object "
    "allowed_tools enabled disabled item_reference image weather"
).split()
NAMES = (
    "type role content text name arguments input call_id id output tool_use_id parameters input_schema mode tools "
    "format schema strict summary thinking is_error description"
).split()
SPOILED = [None, True, -1, 0.5, 10**400, "", "\x00", [], {}, [[]], {"": {}}]
SIMPLE = st.sampled_from([*WORDS, *SPOILED, "{}", '{"a": 1}']) | st.text(max_size=5) | st.floats() | st.integers()
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=12,
)
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
WHOLE: dict[str, dict[str, Any]] = {
    "responses": {
        "model": "demo", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                                   {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]},
                                   {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
                                   {"type": "function_call_output", "call_id": "a", "output": "Rain."}],
        "instructions": "Be brief.", "tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}, "metadata": {"a": "b"},
        "include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 5,
    },
    "messages": {
        "model": "demo", "max_tokens": 5, "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": "Hi"},
                     {"role": "assistant", "content": [{"type": "thinking"},
                                                       {"type": "tool_use", "id": "a", "name": "b", "input": {}}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "Rain."}]}],
        "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "weather"}, "stop_sequences": ["###"],
        "output_config": {"format": {"type": "json_schema", "schema": {}}},
    },
}  # fmt: skip
DIALECTS: dict[str, ModuleType] = {"responses": responses, "messages": anthropic}
TABLES: dict[str, Known] = {"responses": RESPONSES_TABLE, "messages": MESSAGES_TABLE}
CLIENTS: dict[str, Any] = {"responses": Response, "messages": Message}
EACH_API = pytest.mark.parametrize("api", list(DIALECTS))
COUNTS = pytest.mark.parametrize("count", [15, pytest.param(300, marks=pytest.mark.slow)])
ANSWER = answer(("reasoning", "Hm."), "Hi.", call("weather", 1, city="Zü"))


def fields_of(api: str) -> st.SearchStrategy[dict[str, Any]]:
    table = TABLES[api]
    names = [name for part in table for name in part]
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=9), VALUES, max_size=6)


def check_sentence(error: FieldRefused) -> None:
    assert error.param
    assert len(str(error)) < 1000


def check(api: str, body: Any, facts: Facts, strict: bool) -> None:
    dialect = DIALECTS[api]
    try:
        ask = dialect.read(body, strict=strict)
    except FieldRefused as error:
        check_sentence(error)
        return
    assert isinstance(ask, Ask)
    assert ask.messages
    told = dialect.whole(ask, body, facts, [ANSWER.completion])
    CLIENTS[api].model_validate(told, strict=True)
    json.dumps(told)


def check_any(api: str, facts: Facts, bodies: st.SearchStrategy[Any], count: int) -> None:
    @settings(max_examples=count)
    @given(bodies, st.booleans())
    def each(body: Any, strict: bool) -> None:
        check(api, body, facts, strict)

    each()


@COUNTS
@EACH_API
def test_any_fields_are_read_or_refused(api: str, facts: Facts, count: int) -> None:
    check_any(api, facts, fields_of(api), count)


@COUNTS
@EACH_API
def test_a_body_that_is_spoiled_in_one_place_is_read_or_refused(api: str, facts: Facts, count: int) -> None:
    check_any(api, facts, spoiled(WHOLE[api], VALUES), count)


@EACH_API
def test_the_body_that_is_spoiled_is_a_good_one(api: str) -> None:
    assert DIALECTS[api].read(WHOLE[api], strict=True).ignored == ()


@EACH_API
@pytest.mark.parametrize("value", [[], "x", 5, None, True])
def test_what_is_no_object_is_refused(api: str, value: Any) -> None:
    with pytest.raises(FieldRefused):
        DIALECTS[api].read(value, strict=False)


@EACH_API
def test_names_that_are_long_or_many_are_told_in_short(api: str) -> None:
    ask = DIALECTS[api].read(WHOLE[api] | {f"{i}{'x' * 1000}": 1 for i in range(1000)}, strict=False)
    assert len(ask.ignored) <= 32
    assert max(map(len, ask.ignored)) <= 80


@EACH_API
def test_values_that_lie_deep_within_one_another_are_read_or_refused(api: str) -> None:
    deep: Any = []
    for _ in range(900):  # about what the parser lets through
        deep = [deep]
    for name in WHOLE[api]:
        with pytest.raises(FieldRefused):
            DIALECTS[api].read(WHOLE[api] | {name: deep}, strict=False)
