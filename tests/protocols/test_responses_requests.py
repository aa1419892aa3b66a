"""The Responses API, read: what Codex and OpenAI's client send becomes what is asked, and what cannot be done is
refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from elm_mlx.protocols import responses
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.refusal import FieldRefused

FUNCTION = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}
IN_CHATS = {"type": "function", "function": {key: value for key, value in FUNCTION.items() if key != "type"}}
OTHER = FUNCTION | {"name": "time"}


def read(input: Any = "Hi", **more: Any) -> Ask:
    return responses.read({"model": "demo", "input": input, **more})


def call(id: str, name: str = "weather", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": name, "arguments": arguments}


def output(id: str, text: Any = "Rain.") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": text}


def called(id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def test_a_text_is_a_message() -> None:
    assert read() == Ask("demo", messages=[{"role": "user", "content": "Hi"}])


def test_instructions_and_developers_become_one_system_message() -> None:
    input = [{"role": "developer", "content": "Use tools."}, {"role": "user", "content": "Hi"}]
    assert read(input, instructions="Be brief.").messages == [
        {"role": "system", "content": "Be brief.\n\nUse tools."},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize("content", ["Hi", [{"type": "input_text", "text": "H"}, {"type": "input_text", "text": "i"}]])
@pytest.mark.parametrize("kind", [{}, {"type": "message"}])
def test_messages_come_with_and_without_a_type(kind: dict[str, Any], content: Any) -> None:
    assert read([{"role": "user", "content": content, **kind}]).messages == [{"role": "user", "content": "Hi"}]


def test_an_answer_of_ours_may_be_sent_back() -> None:
    """With its reasoning, its text and its calls in one message, as the model wrote them."""
    text = {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "xyz"}
    conversation = [
        {"role": "user", "content": "Hi"},
        reasoning | {"content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]},
        call("a", arguments='{"city": "Zü"}'),
        call("b"),
        output("a"),
        output("b", [{"type": "input_text", "text": "Sun."}]),
    ]
    assert read(conversation).messages == [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant", "content": "I look.", "reasoning_content": "Hm.",
            "tool_calls": [called("a", city="Zü"), called("b")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "Rain."},
        {"role": "tool", "tool_call_id": "b", "content": "Sun."},
    ]  # fmt: skip


def test_rounds_of_calls_stay_apart() -> None:
    messages = read([call("a"), output("a"), call("b"), output("b")]).messages
    assert messages is not None
    assert [one["role"] for one in messages] == ["assistant", "tool", "assistant", "tool"]


def test_reasoning_that_is_encrypted_says_nothing() -> None:
    input = [{"type": "reasoning", "summary": [], "encrypted_content": "xyz"}, {"role": "user", "content": "Hi"}]
    assert read(input) == read("Hi")


def test_calls_of_tools_without_a_schema_may_stand_in_a_conversation() -> None:
    input = [
        {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": "***"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "Done."},
    ]
    messages = read(input).messages
    assert messages is not None
    assert messages[0]["tool_calls"][0]["function"] == {"name": "patch", "arguments": {"input": "***"}}
    assert messages[1] == {"role": "tool", "tool_call_id": "a", "content": "Done."}


def test_what_codex_sends_is_understood() -> None:
    """All fields that it has; its tools of other kinds are left out, and it is told so."""
    ask = read(
        [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
         {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        instructions="You are Codex.", client_metadata={"x": "y"}, include=["reasoning.encrypted_content"],
        parallel_tool_calls=False, prompt_cache_key="abc", reasoning={"effort": "medium", "summary": "auto"},
        store=False, stream=True, tool_choice="auto",
        tools=[FUNCTION | {"strict": False}, {"type": "custom", "name": "apply_patch", "format": {}},
               {"type": "web_search"}, {"type": "local_shell"}, {"type": "namespace", "name": "x", "tools": []}],
    )  # fmt: skip
    assert [tool.schema for tool in ask.tools or ()] == [IN_CHATS]
    assert ask.streamed
    assert not ask.calls_in_parallel
    assert ask.max_tokens is None
    assert ask.options == {}
    assert ask.ignored == ("tools[1]", "tools[2]", "tools[3]", "tools[4]")


def test_what_codex_0_171_sends_is_understood() -> None:
    """No instructions, but messages of the developer, each with an id, and tools in a namespace."""
    said = {"developer": "You are Codex.", "user": "Hi"}
    ask = read(
        [{"type": "message", "id": f"msg_{role}", "role": role, "content": [{"type": "input_text", "text": text}]}
         for role, text in said.items()],
        stream=True, tool_choice="auto", parallel_tool_calls=True, reasoning={"summary": "auto"}, store=False,
        include=["reasoning.encrypted_content"], prompt_cache_key="abc", client_metadata={"turn_id": "abc"},
        tools=[FUNCTION | {"strict": False},
               {"type": "namespace", "name": "agents", "description": "More.", "tools": [OTHER]},
               {"type": "web_search", "external_web_access": False}],
    )  # fmt: skip
    assert ask.messages == [{"role": "system", "content": "You are Codex."}, {"role": "user", "content": "Hi"}]
    assert [tool.schema for tool in ask.tools or ()] == [IN_CHATS]
    assert ask.ignored == ("tools[1]", "tools[2]")


@pytest.mark.parametrize(
    "choice, tools, asked",
    [
        (None, ["weather", "time"], None),
        ("auto", ["weather", "time"], "auto"),
        ("none", ["weather", "time"], "none"),
        ("required", ["weather", "time"], "required"),
        ({"type": "function", "name": "time"}, ["weather", "time"], "time"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}, ["time"],
         "required"),
    ],
)  # fmt: skip
def test_tool_choices_become_those_of_chats(choice: Any, tools: list[str], asked: Any) -> None:
    ask = read(tools=[FUNCTION, OTHER], tool_choice=choice)
    assert [tool.name for tool in ask.tools or ()] == tools
    assert ask.tool_choice == asked


@pytest.mark.parametrize(
    "field, option",
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 0.9, "temperature": 1}, {"top_p": 0.9, "temperature": 1}),
        ({"top_p": 0, "temperature": 1}, {"temperature": 0}),
        ({"top_logprobs": 3}, {"logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": 0}),
        ({"text": {"format": {"type": "text"}}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}},
         {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}}),
        ({"seed": 0, "top_k": 4, "stop": "x"}, {"seed": 0, "top_k": 4, "stop": ("x",)}),
        ({"stop": ["x", "y"]}, {"stop": ("x", "y")}),
        ({"temperature": None, "top_p": None, "tools": None, "text": None, "include": None, "metadata": None}, {}),
    ],
)  # fmt: skip
def test_fields_become_options(field: dict[str, Any], option: dict[str, Any]) -> None:
    assert read(**field).options == option


def test_the_number_of_tokens_is_that_of_the_answer() -> None:
    assert read(max_output_tokens=7).max_tokens == 7


REFUSED: list[tuple[str, Any]] = [
    ("input", None), ("input", []), ("input", 5), ("input[0]", ["Hi"]), ("input[0].role", [{}]),
    ("input[0].role", [{"role": "wizard", "content": "Hi"}]), ("input[0].content", [{"role": "user"}]),
    ("input[0].content", [{"role": "user", "content": 5}]),
    ("input[0].content[0].type", [{"role": "user", "content": [{}]}]),
    ("input[0].content[0].type", [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]),
    ("input[0].content[0].type", [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]),
    ("input[0].type", [{"type": "item_reference", "id": "x"}]), ("input[0].type", [{"type": 5}]),
    ("input[0].arguments", [call("a", arguments="no")]), ("input[0].arguments", [call("a", arguments="[]")]),
    ("input[0].arguments", [call("a", arguments="[" * 100_000)]), ("input[0].call_id", [call("")]),
    ("input[0].output", [{"type": "function_call_output", "call_id": "a"}]),
    ("model", ""), ("model", 5), ("instructions", 5), ("stream", "yes"), ("metadata", []), ("metadata.a", {"a": 1}),
    ("metadata", {str(i): "" for i in range(17)}),
    ("max_output_tokens", 0), ("max_output_tokens", -1), ("max_output_tokens", 1.5), ("max_output_tokens", True),
    ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"), ("temperature", True),
    ("temperature", 10**400), ("top_p", 1.1), ("top_p", -1), ("top_logprobs", 21), ("top_logprobs", -1),
    ("seed", 1.5), ("stop", 5), ("stop", [5]), ("stop", ["x", ""]),
    ("include", "all"), ("include[0]", [5]),
    ("text", "json"), ("text.format", {"format": "json"}), ("text.format.type", {"format": {"type": "sound"}}),
    ("text.format.type", {"format": {"schema": {}}}),
    ("text.format.schema", {"format": {"type": "json_schema", "name": "a"}}),
    ("text.format.schema", {"format": {"type": "json_schema", "name": "a", "schema": "{}"}}),
    ("text.format.name", {"format": {"type": "json_schema", "schema": {}}}),
    ("tools", {}), ("tools[0]", ["weather"]), ("tools[0].type", [{}]), ("tools[0].name", [{"type": "function"}]),
    ("tools[0].parameters", [FUNCTION | {"parameters": "none"}]),
    ("tool_choice", "always"), ("tool_choice", "required"), ("tool_choice", 5), ("tool_choice.type", {}),
    ("tool_choice.type", {"type": "web_search"}), ("tool_choice.name", {"type": "function", "name": "x"}),
    ("tool_choice.tools", {"type": "allowed_tools", "mode": "auto", "tools": []}),
    ("parallel_tool_calls", 1), ("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("background", True),
    ("prompt", {"id": "x"}),
    ("max_tokens", 5), ("response_format", {"type": "json_object"}), ("n", 2), ("tools", [FUNCTION] * 129),
]  # fmt: skip


@pytest.mark.parametrize("param, value", REFUSED)
def test_what_has_no_meaning_is_refused_by_its_name(param: str, value: Any) -> None:
    name = param.partition("[")[0].partition(".")[0]
    with pytest.raises(FieldRefused) as refused:
        responses.read({"model": "demo", "input": "Hi", name: value})
    assert refused.value.param == param
    assert param in str(refused.value)


@pytest.mark.parametrize(
    "name, value", [("background", False), ("previous_response_id", None), ("truncation", "auto"), ("n", 1)]
)
def test_what_changes_nothing_is_taken(name: str, value: Any) -> None:
    assert read(**{name: value}) == read()


@pytest.mark.parametrize(
    "more, param",
    [
        ({"colour": "red"}, "colour"),
        ({"text": {"colour": "red"}}, "text.colour"),
        ({"include": ["everything"]}, "include[0]"),
        ({"tools": [FUNCTION | {"colour": "red"}]}, "tools[0].colour"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": [{"type": "web_search_call"}, {"role": "user", "content": "Hi"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "Hi", "colour": "red"}]}, "input[0].colour"),
    ],
)
def test_what_is_not_known_is_told_or_refused_where_strict(more: dict[str, Any], param: str) -> None:
    body = {"model": "demo", "input": "Hi"} | more
    assert responses.read(body).ignored == (param,)
    with pytest.raises(FieldRefused) as refused:
        responses.read(body, strict=True)
    assert refused.value.param == param


def test_items_that_all_are_unknown_leave_nothing_to_answer() -> None:
    with pytest.raises(FieldRefused, match="nothing"):
        read([{"type": "web_search_call"}])
