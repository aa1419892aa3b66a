"""What comes over the wire, answers and each event of streams, has the form that OpenAI's own schemas give it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import openai_schemas
from helpers.wire import Answer

pytestmark = openai_schemas.NEEDED

SAID = [{"role": "user", "content": "What is the weather in Oslo?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Paris"]}}, "required": ["city"],
              "additionalProperties": False}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": PARAMETERS, "strict": True}}
USAGE = {"stream_options": {"include_usage": True}}

CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "log-probabilities": {"logprobs": True, "top_logprobs": 2},
    "two answers": {"n": 2, "temperature": 1, "seed": 0},
    "a call": {"tools": TOOLS, "tool_choice": "required", "max_tokens": 80},
    "a cut call": {"tools": TOOLS, "tool_choice": "required", "max_tokens": 6},
    "a form": {"response_format": FORM, "max_tokens": 80},
    "usage": USAGE,
}
COMPLETIONS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "Once upon"},
    "log-probabilities": {"prompt": "Once upon", "logprobs": 2},
    "two prompts": {"prompt": ["Once upon", "The cat"]},
    "ids": {"prompt": [1, 5, 9]},
    "echo": {"prompt": "Once upon", "echo": True},
    "usage": {"prompt": "Once upon"} | USAGE,
}
RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"input": "Hi"},
    "items": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]},
    "a call": {"input": "Hi", "tools": [{"type": "function", "name": "weather", "parameters": PARAMETERS}],
               "tool_choice": "required", "max_output_tokens": 80},
    "a form": {"input": "Hi", "max_output_tokens": 80,
               "text": {"format": {"type": "json_schema", "name": "place", "schema": PARAMETERS, "strict": True}}},
}  # fmt: skip


def whole(answer: Answer) -> Any:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json


def events(answer: Answer) -> list[tuple[str | None, Any]]:
    """The events of a stream, as (name, data). No line is one that OpenAI's clients stumble over."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        assert all(line.startswith(("data: ", "event: ")) for line in lines), block
        fields = dict(line.split(": ", 1) for line in lines)
        if lines:
            data = fields["data"]
            found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


def chunks(answer: Answer) -> list[Any]:
    """The chunks of a chat or a completion, which end with [DONE] and have no names."""
    *found, last = events(answer)
    assert last == (None, "[DONE]")
    assert all(name is None for name, _ in found)
    return [data for _, data in found]


@pytest.mark.parametrize("options", CHATS.values(), ids=CHATS.keys())
def test_a_chat(house: Any, options: dict[str, Any]) -> None:
    asked = {"model": house.chat, "messages": SAID, "max_tokens": 4, "temperature": 0} | options
    body = whole(house.served.ask("POST", "/v1/chat/completions", asked))
    openai_schemas.check(body, "CreateChatCompletionResponse")
    streamed = chunks(house.served.ask("POST", "/v1/chat/completions", asked | {"stream": True}))
    for chunk in streamed:
        openai_schemas.check(chunk, "CreateChatCompletionStreamResponse")
    assert [chunk["usage"] for chunk in streamed if "usage" in chunk] == (
        [None] * (len(streamed) - 1) + [body["usage"]] if options is USAGE else []
    )
    reasons = [choice["finish_reason"] for chunk in streamed for choice in chunk["choices"]]
    assert sorted(filter(None, reasons)) == sorted(choice["finish_reason"] for choice in body["choices"])


@pytest.mark.parametrize("options", COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_a_completion(house: Any, options: dict[str, Any]) -> None:
    asked = {"model": house.demo, "max_tokens": 4, "temperature": 0} | options
    body = whole(house.served.ask("POST", "/v1/completions", asked))
    openai_schemas.check(body, "CreateCompletionResponse")
    for chunk in chunks(house.served.ask("POST", "/v1/completions", asked | {"stream": True})):
        ended = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]]
        openai_schemas.check(without_null_usage(chunk) | {"choices": ended}, "CreateCompletionResponse")


def without_null_usage(chunk: Any) -> Any:
    """A chunk without the `usage` of null that stream_options asks for, and that the schema has for chats only."""
    return {key: value for key, value in chunk.items() if (key, value) != ("usage", None)}


@pytest.mark.parametrize("options", RESPONSES.values(), ids=RESPONSES.keys())
def test_a_response(house: Any, options: dict[str, Any]) -> None:
    asked = {"model": house.chat, "max_output_tokens": 4, "temperature": 0} | options
    openai_schemas.check(whole(house.served.ask("POST", "/v1/responses", asked)), "Response")
    for name, data in events(house.served.ask("POST", "/v1/responses", asked | {"stream": True})):
        assert name == data["type"]
        openai_schemas.check(data, "ResponseStreamEvent")


def test_models(house: Any) -> None:
    listed = whole(house.served.ask("GET", "/v1/models"))
    openai_schemas.check(listed, "ListModelsResponse")
    for model in listed["data"]:
        openai_schemas.check(whole(house.served.ask("GET", f"/v1/models/{model['id']}")), "Model")


REFUSED: dict[str, tuple[str, str, Any, int]] = {
    "a field": ("POST", "/v1/chat/completions", {"messages": []}, 400),
    "no JSON": ("POST", "/v1/completions", b"{", 400),
    "a model": ("POST", "/v1/completions", {"model": "none", "prompt": "a"}, 404),
    "a route": ("GET", "/v1/nothing", None, 404),
    "a method": ("DELETE", "/v1/chat/completions", None, 405),
    "embeddings": ("POST", "/v1/embeddings", {"input": "a"}, 400),
    "a response": ("POST", "/v1/responses", {"input": 3}, 400),
}


@pytest.mark.parametrize("method, path, body, status", REFUSED.values(), ids=REFUSED.keys())
def test_an_error(house: Any, method: str, path: str, body: Any, status: int) -> None:
    answer = house.served.ask(method, path, body)
    assert answer.status == status
    openai_schemas.check(answer.json, "ErrorResponse")
