"""Anthropic's Messages API, read: what Claude Code and Anthropic's client send becomes what is asked, and what cannot
be done is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from elm_mlx.protocols import anthropic
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.refusal import FieldRefused

HI = {"role": "user", "content": "Hi"}
TOOL = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object"}}
IN_CHATS = {"type": "function", "function": {"name": "weather", "description": "Tells it.",
                                             "parameters": {"type": "object"}}}  # fmt: skip


def read(*messages: Any, **more: Any) -> Ask:
    return anthropic.read({"model": "demo", "max_tokens": 9, "messages": [*messages] or [HI], **more})


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def use(id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "weather", "input": arguments}


def result(id: str, content: Any = "Rain.", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def test_a_plain_request_is_a_chat() -> None:
    assert read() == Ask("demo", messages=[HI], max_tokens=9)


@pytest.mark.parametrize("system", ["Be brief.\nUse tools.", [text("Be brief."), text("Use tools.")]])
def test_system_texts_are_the_first_message(system: Any) -> None:
    assert read(system=system).messages == [{"role": "system", "content": "Be brief.\nUse tools."}, HI]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("form", ["text", "blocks"])
def test_lines_that_differ_in_every_request_are_left_out(form: str, number: int) -> None:
    billing = f"x-anthropic-billing-header: cc_version=2.{number}; cch={number};"
    system: Any = f"{billing}\nBe brief." if form == "text" else [text(billing), text("Be brief.")]
    assert read(system=system).messages == [{"role": "system", "content": "Be brief."}, HI]
    assert read(system=billing).messages == [HI]


def test_blocks_of_a_user_are_lines() -> None:
    assert read({"role": "user", "content": [text("H"), text("i")]}).messages == [{"role": "user", "content": "H\ni"}]


def test_a_conversation_with_tools_is_one_of_chats() -> None:
    assistant = [{"type": "thinking", "thinking": "Hm.", "signature": "xyz"}, text("I "), text("look."),
                 use("a", city="Zü"), use("b")]  # fmt: skip
    told = [result("a", [text("Rain."), text("Wind.")]), result("b", "None.", is_error=True), text("So?")]
    function = {"name": "weather", "arguments": {"city": "Zü"}}
    assert read(HI, {"role": "assistant", "content": assistant}, {"role": "user", "content": told}).messages == [
        HI,
        {
            "role": "assistant", "content": "I look.", "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": function},
                {"id": "b", "type": "function", "function": {"name": "weather", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "Rain.\nWind."},
        {"role": "tool", "tool_call_id": "b", "content": "Error: None."},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["", None, []])
def test_a_result_may_be_empty(content: Any) -> None:
    ask = read(HI, {"role": "assistant", "content": [use("a")]}, {"role": "user", "content": [result("a", content)]})
    assert ask.messages is not None
    assert ask.messages[1]["content"] is None
    assert ask.messages[2]["content"] == ""


def test_an_answer_goes_on_from_a_last_message_of_the_assistant_s() -> None:
    ask = read(HI, {"role": "assistant", "content": "Well,"})
    assert ask.goes_on
    assert ask.messages == [HI, {"role": "assistant", "content": "Well,"}]
    assert not read().goes_on


@pytest.mark.parametrize(
    "choice, asked",
    [
        (None, None),
        ({"type": "auto"}, "auto"),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "weather"),
    ],
)
def test_tool_choices_become_those_of_chats(choice: Any, asked: Any) -> None:
    ask = read(tools=[TOOL], tool_choice=choice)
    assert [tool.schema for tool in ask.tools or ()] == [IN_CHATS]
    assert ask.tool_choice == asked


SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}}


@pytest.mark.parametrize(
    "field, option",
    [
        ({"temperature": 1}, {"temperature": 1}),
        ({"top_p": 0.9, "top_k": 5, "temperature": 1}, {"top_p": 0.9, "top_k": 5, "temperature": 1}),
        ({"stop_sequences": ["###"]}, {"stop": ["###"]}),
        ({"stop_sequences": []}, {}),
        ({"output_config": {"effort": "low", "format": SCHEMA}}, FORM),
        ({"output_format": SCHEMA}, FORM),
        ({"temperature": None, "system": None, "tools": None, "thinking": None, "metadata": None}, {}),
    ],
)
def test_fields_become_options(field: dict[str, Any], option: dict[str, Any]) -> None:
    assert read(**field).options == option


def test_what_claude_code_sends_is_understood() -> None:
    ask = read(
        {"role": "user", "content": [text("<system-reminder>\nBe kind.\n</system-reminder>\n"), text("Hi")]},
        system=[text("x-anthropic-billing-header: a=1;"), text("You are Claude Code.")], stream=True, temperature=1,
        metadata={"user_id": "abc"}, thinking={"type": "enabled", "budget_tokens": 31999},
        context_management={"edits": []}, output_config={"effort": "medium"},
        tools=[TOOL | {"strict": False, "cache_control": {"type": "ephemeral"}},
               {**TOOL, "type": "custom", "name": "time"},
               {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
    )  # fmt: skip
    assert ask.streamed
    assert [tool.name for tool in ask.tools or ()] == ["weather", "time"]
    assert ask.ignored == ("tools[2]",)
    assert ask.options == {"temperature": 1}


def test_what_claude_code_2_1_sends_after_a_call_is_understood() -> None:
    """Its list of agents is a system message behind the user's; it asks for adaptive thinking and for an effort."""
    kept = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    ask = read(
        {"role": "user", "content": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Hi"}]},
        {"role": "system", "content": "There are agents."},
        {"role": "assistant", "content": [use("a", city="Oslo")]},
        {"role": "user", "content": [result("a", is_error=False, cache_control={"type": "ephemeral"})]},
        max_tokens=32000, stream=True, system=[text("You are an agent."), text("Help.")], tools=[TOOL],
        metadata={"user_id": "abc"}, thinking={"type": "adaptive"}, context_management=kept,
        output_config={"effort": "high"},
    )  # fmt: skip
    assert [message["role"] for message in ask.messages or ()] == ["system", "user", "system", "assistant", "tool"]
    assert (ask.ignored, ask.options) == ((), {})


def blocks(*given: Any, role: str = "user") -> list[Any]:
    return [{"role": role, "content": list(given)}]


REFUSED: list[tuple[str, Any]] = [
    ("max_tokens", None), ("max_tokens", 0), ("max_tokens", 1.5), ("max_tokens", "9"),
    ("messages", None), ("messages", []), ("messages", "Hi"), ("messages[0]", ["Hi"]),
    ("messages[0].role", [{"content": "Hi"}]), ("messages[0].role", [{"role": "tool", "content": "Hi"}]),
    ("messages[0].content", [{"role": "user"}]), ("messages[0].content", [{"role": "user", "content": []}]),
    ("messages[0].content", [{"role": "user", "content": 5}]), ("messages[0].content[0]", blocks("Hi")),
    ("messages[0].content[0].type", blocks({})), ("messages[0].content[0].text", blocks({"type": "text"})),
    ("messages[0].content[0].type", blocks({"type": "image", "source": {"type": "url", "url": "http://x"}})),
    ("messages[0].content[0].type", blocks({"type": "document", "source": {}})),
    ("messages[0].content[0].type", blocks({"type": "image"}, role="assistant")),
    ("messages[0].content[0].tool_use_id", blocks({"type": "tool_result", "content": "x"})),
    ("messages[0].content[0].content[0].type", blocks(result("a", [{"type": "image"}]))),
    ("messages[0].content[0].input", blocks(use("a") | {"input": "x"}, role="assistant")),
    ("messages[0].content[0].name", blocks({"type": "tool_use", "id": "a"}, role="assistant")),
    ("messages", blocks(use("a"), role="assistant")),
    ("system", 5), ("system[0]", ["x"]), ("system[0].type", [{"type": "image"}]),
    ("model", ""), ("stream", 1), ("temperature", 1.1), ("temperature", -1), ("top_p", 2), ("top_k", -2),
    ("top_k", 0.5), ("stop_sequences", "x"), ("stop_sequences[0]", [5]), ("stop_sequences[0]", [""]),
    ("tools", {}), ("tools[0]", ["weather"]), ("tools[0].name", [{"input_schema": {}}]),
    ("tools[0].input_schema", [{"name": "weather"}]), ("tools[0].input_schema", [{"name": "a", "input_schema": []}]),
    ("tool_choice", "auto"), ("tool_choice.type", {"type": "required"}), ("tool_choice.type", {"type": "any"}),
    ("tool_choice.type", {"name": "x"}), ("tool_choice.name", {"type": "tool", "name": "x"}),
    ("thinking", True), ("thinking.type", {"type": "deep"}), ("thinking.type", {"budget_tokens": 5}),
    ("output_config.format.type", {"format": {"type": "text", "schema": {}}}),
    ("output_format.schema", {"type": "json_schema"}),
    ("output_format.schema", {"type": "json_schema", "schema": "{}"}),
    ("container", "c_1"), ("mcp_servers", [{"url": "http://x"}]), ("stop", ["x"]), ("n", 2), ("tools", [TOOL] * 129),
]  # fmt: skip


@pytest.mark.parametrize("param, value", REFUSED)
def test_what_has_no_meaning_is_refused_by_its_name(param: str, value: Any) -> None:
    name = param.partition("[")[0].partition(".")[0]
    with pytest.raises(FieldRefused) as refused:
        anthropic.read({"model": "demo", "max_tokens": 9, "messages": [HI], name: value})
    assert refused.value.param == param
    assert param in str(refused.value)


@pytest.mark.parametrize(
    "more, param",
    [
        ({"colour": "red"}, "colour"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [TOOL | {"colour": "red"}]}, "tools[0].colour"),
        ({"messages": [HI | {"colour": "red"}]}, "messages[0].colour"),
        (
            {"messages": [HI, *blocks(text("x"), {"type": "server_tool_use"}, role="assistant")]},
            "messages[1].content[1]",
        ),
    ],
)
def test_what_is_not_known_is_told_or_refused_where_strict(more: dict[str, Any], param: str) -> None:
    body = {"model": "demo", "max_tokens": 9, "messages": [HI]} | more
    assert anthropic.read(body).ignored == (param,)
    with pytest.raises(FieldRefused) as refused:
        anthropic.read(body, strict=True)
    assert refused.value.param == param


def test_counting_asks_for_the_same_prompt_and_no_answer() -> None:
    body = {"model": "demo", "messages": [HI], "system": "Be brief.", "tools": [TOOL]}
    count, ask = anthropic.read_count(body), anthropic.read(body | {"max_tokens": 9})
    assert (count.messages, count.tools, count.goes_on) == (ask.messages, ask.tools, ask.goes_on)
    assert anthropic.counted(7) == {"input_tokens": 7}
