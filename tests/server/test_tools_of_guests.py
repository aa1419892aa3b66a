"""Calls in the words of other families, through the three APIs: they come as calls, and are read when sent back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from helpers import callers
from helpers.live_app import LiveApp, living_app

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HI = {"role": "user", "content": "What is the weather?"}
SAID = {
    "qwen": '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zü"}}\n</tool_call>',
    "small": '[TOOL_CALLS]weather[CALL_ID]abc123XYZ[ARGS]{"city": "Zü"}',
}
each_kind = pytest.mark.parametrize("kind", list(SAID))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    folder = tmp_path_factory.mktemp("guests")
    with living_app(*(callers.write(folder / kind, callers.CALLERS[kind]) for kind in SAID)) as app:
        yield app


def say(app: LiveApp, patch: pytest.MonkeyPatch, kind: str) -> list[tuple[int, ...]]:
    return app.say(patch, kind, SAID[kind] + callers.CALLERS[kind].end)


@each_kind
def test_chat_completions_give_a_call(app: LiveApp, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    asked: Any = {"model": kind, "messages": [HI], "max_tokens": 400, "tools": tools}
    prompts = say(app, monkeypatch, kind)
    with openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0) as client:
        (choice,) = client.chat.completions.create(**asked).choices
        (call,) = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content or "") == ("tool_calls", "")
        assert json.loads(call.function.arguments) == {"city": "Zü"}
        said = choice.message.model_dump(exclude_none=True)
        result = {"role": "tool", "tool_call_id": call.id, "content": "Rain!"}
        client.chat.completions.create(**asked | {"messages": [HI, said, result]})
    assert app.shown(kind, prompts[1]).count("Zü") == app.shown(kind, prompts[1]).count("Rain!") == 1


@each_kind
def test_responses_give_a_call(app: LiveApp, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    say(app, monkeypatch, kind)
    tools: Any = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
    with openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0) as client:
        answer: Any = client.responses.create(model=kind, input="Well?", max_output_tokens=400, tools=tools)
    assert [json.loads(item.arguments) for item in answer.output if item.type == "function_call"] == [{"city": "Zü"}]
    assert answer.output_text == ""


@each_kind
def test_messages_give_a_call(app: LiveApp, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    say(app, monkeypatch, kind)
    tools: Any = [{"name": "weather", "input_schema": SCHEMA}]
    with anthropic.Anthropic(base_url=app.url, api_key="unused", max_retries=0) as client:
        answer: Any = client.messages.create(model=kind, messages=[HI], max_tokens=400, tools=tools)
    (used,) = [block for block in answer.content if block.type == "tool_use"]
    assert (answer.stop_reason, used.input) == ("tool_use", {"city": "Zü"})
