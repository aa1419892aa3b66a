"""What a chat completion of OpenAI's API may ask: enforced, without effect, or refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.openai import chat
from elm_mlx.protocols.openai.table import CHAT_FIELDS
from elm_mlx.protocols.refusal import FieldRefused

ASK = [{"role": "user", "content": "Which colour?"}]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": WEATHER}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def read(*, strict: bool = True, **body: Any) -> Ask:
    return chat.read({"messages": ASK} | body, strict=strict)


def options(**body: Any) -> dict[str, Any]:
    return dict(read(**body).options)


def refused(**body: Any) -> FieldRefused:
    with pytest.raises(FieldRefused) as caught:
        read(**body)
    assert len(str(caught.value)) < 1000
    return caught.value


def messages(*said: Any) -> Any:
    return read(messages=list(said)).messages


# Options


def test_what_is_not_said_is_the_models_own_and_an_answer_may_take_all_of_the_context() -> None:
    ask = read()
    assert ask == Ask(model=None, messages=ASK)
    assert (ask.max_tokens, ask.options, ask.n, ask.streamed) == (None, {}, 1, False)


def test_null_is_absent_in_every_field_that_is_known() -> None:
    names = {name for table in CHAT_FIELDS for name in table} - {"messages"}
    assert read(**dict.fromkeys(names)) == read()


def test_options_of_sampling_are_those_of_a_call() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "presence_penalty": -2, "frequency_penalty": 2, "seed": 0, "min_p": 0.1,
             "top_k": 3, "repetition_penalty": 1.1}  # fmt: skip
    assert options(**given) == given
    assert options(logit_bias={"15": -100, "7": 2.5}) == {"logit_bias": {15: -100, 7: 2.5}}
    assert options(stop="\n") == {"stop": ("\n",)}
    assert options(stop=["a", "b", "c", "d", "e"]) == {"stop": ("a", "b", "c", "d", "e")}
    assert options(stop=[]) == {}
    assert options(cache_prompt=False) == {"reuse": False}
    assert options(top_k=-1) == {"top_k": 0}


def test_a_share_of_nothing_leaves_the_likeliest_token() -> None:
    assert options(top_p=0, temperature=1) == {"temperature": 0}


@pytest.mark.parametrize("seed", [0, -1, 2**64, 7.0])
def test_any_whole_number_is_a_seed(seed: Any) -> None:
    assert options(seed=seed) == {"seed": int(seed)}


def test_the_length_has_two_names_and_minus_one_means_all_there_is_room_for() -> None:
    assert read(max_tokens=4).max_tokens == read(max_completion_tokens=4).max_tokens == 4
    assert read(max_tokens=4, max_completion_tokens=4).max_tokens == 4
    assert read(max_tokens=-1).max_tokens is None
    assert refused(max_tokens=4, max_completion_tokens=5).param == "max_tokens"


def test_log_probabilities_are_a_flag_and_a_number() -> None:
    assert options(logprobs=True) == {"logprobs": 0}
    assert options(logprobs=True, top_logprobs=20) == {"logprobs": 20}
    assert options(logprobs=False, top_logprobs=0) == {}
    assert refused(top_logprobs=3).param == "top_logprobs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.1), ("temperature", -0.1), ("temperature", "1"), ("temperature", True),
        ("temperature", float("nan")), ("top_p", 1.1), ("top_p", -1), ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5), ("n", 0), ("n", 9), ("n", 1.5), ("n", True), ("seed", 1.5), ("seed", "x"),
        ("seed", 10**4299), ("max_tokens", 0), ("max_tokens", -2), ("max_tokens", 1.5), ("max_completion_tokens", 0),
        ("stop", 5), ("stop", ""), ("stop", ["a", 5]), ("stop", ["x"] * 17), ("logit_bias", []),
        ("logit_bias", {"a": 1}), ("logit_bias", {"1": 101}), ("logit_bias", {"1": "x"}), ("logit_bias", {"-1": 1}),
        ("logprobs", 3), ("top_logprobs", 21), ("top_logprobs", -1), ("stream", "yes"), ("model", ""), ("model", 5),
        ("top_k", -2), ("min_p", 2), ("repetition_penalty", 0), ("cache_prompt", 1), ("banned_ids", [-1]),
        ("chat_template_kwargs", []), ("parallel_tool_calls", "no"), ("response_format", "json"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_its_name(name: str, value: object) -> None:
    error = refused(**{name: value})
    assert (error.param, error.code) == (name, "invalid_value")
    assert name in str(error)


def test_the_loaded_model_has_names_that_clients_send() -> None:
    assert [read(model=name).model for name in ("gpt-4o", "default", "default_model")] == ["gpt-4o", None, None]


def test_stream_options_count_with_a_stream_alone() -> None:
    assert read(stream=True, stream_options={"include_usage": True}).streamed
    assert read(stream_options={"include_usage": 5}).streamed is False
    assert refused(stream=True, stream_options={"include_usage": 5}).param == "stream_options.include_usage"


# Fields


HARMLESS = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "safety_identifier": "x",
            "prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {}, "moderation": {},
            "prediction": {"type": "content"}, "reasoning_effort": "high", "verbosity": "low"}  # fmt: skip


def test_what_clients_send_unasked_changes_nothing() -> None:
    assert read(**HARMLESS) == read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {"voice": "alloy"}), ("modalities", ["text", "audio"]), ("web_search_options", {}),
        ("functions", [WEATHER]), ("function_call", {"name": "weather"}), ("stop_token_ids", [1]), ("ignore_eos", True),
        ("min_tokens", 5), ("best_of", 2), ("echo", True), ("grammar", "root ::= x"), ("prompt", "Hi"),
        ("chat_template", "{{ 1 }}"), ("use_beam_search", True), ("documents", [{}]),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_and_is_not_there_is_refused(name: str, value: object) -> None:
    error = refused(**{name: value})
    assert (error.param, error.code) == (name, "unsupported_parameter")


def test_what_is_not_there_may_be_switched_off() -> None:
    off = {"functions": [], "function_call": "none", "modalities": ["text"], "ignore_eos": False, "min_tokens": 0,
           "echo": False, "best_of": 1, "stop_token_ids": [], "tools": [], "tool_choice": "none"}  # fmt: skip
    assert read(**off) == read()
    assert refused(min_tokens=False).param == "min_tokens"  # in JSON false is no 0


def test_unknown_fields_are_told_or_refused() -> None:
    ask = read(strict=False, foo=1, stream_option={}, bar=None)
    assert ask.ignored == ("foo", "stream_option")
    error = refused(temprature=1)
    assert (error.param, error.code) == ("temprature", "unknown_parameter")
    assert "Did you mean temperature?" in str(error)
    said = [{"role": "user", "content": "Hi", "weight": 1, "name": "Ann"}] * 2
    assert read(strict=False, messages=said).ignored == ("messages[].weight",)
    assert refused(messages=said).param == "messages[].weight"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}]},
            "messages[].content[].x",
        ),
        ({"tools": [TOOL | {"x": 1}]}, "tools[0].x"),
        ({"tools": [{"type": "function", "function": WEATHER | {"x": 1}}]}, "tools[0].function.x"),
        ({"response_format": {"type": "json_object", "x": 1}}, "response_format.x"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "x": 1}}},
            "response_format.json_schema.x",
        ),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
    ],
)
def test_unknown_keys_inside_of_fields_are_told_or_refused(body: dict[str, Any], param: str) -> None:
    assert read(strict=False, **body).ignored == (param,)
    error = refused(**body)
    assert (error.param, error.code) == (param, "unknown_parameter")


def test_a_tool_whose_schema_nobody_here_understands_is_told_or_refused() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"unevaluatedProperties": False}}}]
    assert read(strict=False, tools=tools).ignored == ("tools[0].function.parameters",)
    with pytest.raises(FieldRefused, match="unevaluatedProperties"):
        read(tools=tools)


def test_the_names_of_unknown_fields_stay_few_and_short() -> None:
    ask = read(strict=False, **{f"{number}{'x' * 5000}": 1 for number in range(1000)})
    assert len(ask.ignored) <= 32
    assert max(map(len, ask.ignored)) <= 64


# Messages


def test_messages_are_those_of_templates() -> None:
    parts = [{"type": "text", "text": "Which "}, {"type": "text", "text": "colour?"}]
    assert messages({"role": "developer", "content": ""}, {"role": "user", "content": parts}) == [
        {"role": "system", "content": ""},
        *ASK,
    ]
    said = {"role": "assistant", "content": "Blue.", "refusal": None, "annotations": [], "reasoning_content": "Sky."}
    assert messages(*ASK, said)[1] == {"role": "assistant", "content": "Blue.", "reasoning_content": "Sky."}


def test_a_call_and_its_result_are_messages() -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}
    assert messages(*ASK, said | {"content": []}) == messages(*ASK, said)
    result = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain."}]}
    function = {"name": "weather", "arguments": {"city": "Oslo"}}
    assert messages(*ASK, said, result)[1:] == [
        {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}


@pytest.mark.parametrize(
    ("said", "param", "code"),
    [
        (None, "messages", "missing_required_parameter"),
        ([], "messages", "invalid_value"),
        ("Hi", "messages", "invalid_value"),
        ([5], "messages[0]", "invalid_value"),
        ([{"content": "Hi"}], "messages[0]", "invalid_value"),
        ([{"role": "function", "content": "x"}], "messages[0].role", "invalid_value"),
        ([{"role": "user"}], "messages[0].content", "missing_required_parameter"),
        ([*ASK, {"role": "assistant", "content": None}], "messages[1].content", "missing_required_parameter"),
        ([{"role": "user", "content": 5}], "messages[0].content", "invalid_value"),
        ([{"role": "user", "content": []}], "messages[0].content", "invalid_value"),
        ([{"role": "user", "content": "a\ud800"}], "messages[0].content", "invalid_value"),
        ([*ASK, {"role": "user", "content": [IMAGE]}], "messages[1].content[0].type", "unsupported_content_type"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]}],
            "messages[0].content[1].type",
            "unsupported_content_type",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "invalid_value"),
        ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0].type", "invalid_value"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "missing_required_parameter"),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "messages[0].tool_calls", "invalid_value"),
        ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls", "invalid_value"),
        ([{"role": "assistant", "tool_calls": [CALL | {"id": None}]}], "messages[0].tool_calls[0].id", "invalid_value"),
        (
            [{"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}],
            "messages[0].tool_calls[0].type",
            "invalid_value",
        ),
        (
            [{"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "[1]"}}]}],
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
        ([{"role": "assistant", "content": "x", "audio": {"id": "a"}}], "messages[0].audio", "unsupported_parameter"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_message_is_named_by_its_place(said: Any, param: str, code: str) -> None:
    error = refused(messages=said)
    assert (error.param, error.code) == (param, code)


def test_a_last_message_of_the_assistant_is_continued_unless_a_turn_is_wanted() -> None:
    said = [*ASK, {"role": "assistant", "content": "The colour is"}]
    assert read(messages=said).goes_on
    assert read(messages=said, continue_final_message=True, add_generation_prompt=False).goes_on
    assert not read(messages=said, continue_final_message=False).goes_on
    assert not read(messages=said, add_generation_prompt=True).goes_on
    assert not read(messages=[*ASK, {"role": "assistant", "tool_calls": [CALL]}]).goes_on
    assert not read().goes_on
    assert refused(continue_final_message=True).param == "continue_final_message"
    assert refused(add_generation_prompt=False).param == "add_generation_prompt"


# Tools


def test_tools_are_functions_and_a_choice_names_one() -> None:
    ask = read(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}})
    assert ask.tools is not None
    assert [tool.schema["function"]["name"] for tool in ask.tools] == ["weather"]
    assert ask.tool_choice == "weather"
    assert [read(tools=[TOOL], tool_choice=one).tool_choice for one in ("auto", "none", "required", None)] == [
        "auto", "none", "required", None,
    ]  # fmt: skip
    assert read(tools=[TOOL]).calls_in_parallel
    other = {"type": "function", "function": {"name": "other"}}
    few = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}
    ask = read(tools=[TOOL, other], tool_choice=few)
    assert ask.tools is not None
    assert ([tool.name for tool in ask.tools], ask.tool_choice) == (["other"], "required")
    assert not read(tools=[TOOL], parallel_tool_calls=False).calls_in_parallel


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": "x"}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [TOOL, {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}]}, "tools[0].function"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice.allowed_tools.tools",
        ),
    ],
)
def test_a_mistake_in_tools_is_named(body: dict[str, Any], param: str) -> None:
    assert refused(**body).param == param


# The form of the answer


def test_a_form_is_asked_for_under_the_names_of_several_servers() -> None:
    named = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    assert options(response_format=named) == options(guided_json=SCHEMA) == {"schema": SCHEMA}
    assert options(response_format={"type": "json_object"}) == {"response_format": {"type": "json_object"}}
    assert options(response_format={"type": "json_object", "schema": SCHEMA}) == {"schema": SCHEMA}
    assert options(response_format={"type": "text"}) == {}
    assert options(guided_regex="a+") == options(structured_outputs={"regex": "a+"}) == {"regex": "a+"}
    assert options(guided_choice=["a", "b"]) == {"choices": ["a", "b"]}
    assert options(guided_grammar='start: "a"') == {"grammar": 'start: "a"'}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "sound"}}, "response_format.type"),
        ({"response_format": {"type": 123}}, "response_format.type"),
        ({"response_format": {"type": ["json_object"]}}, "response_format.type"),
        ({"response_format": {"json_schema": {"schema": SCHEMA}}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 123}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_form_is_named(body: dict[str, Any], param: str) -> None:
    assert refused(**body).param == param


def test_variables_go_to_the_template_but_none_that_a_request_has_a_field_for() -> None:
    assert read(chat_template_kwargs={"enable_thinking": False}).template_variables == {"enable_thinking": False}
    assert refused(chat_template_kwargs={"messages": []}).param == "chat_template_kwargs.messages"
