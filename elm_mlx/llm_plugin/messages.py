"""llm's messages, as dicts (`Message.to_dict`), to those of chat templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from elm_mlx.errors import InvalidRequest

Message = dict[str, Any]
TEXTS = {"text": "content", "reasoning": "reasoning"}  # kind of a part -> where a message has it


def messages_of(given: Iterable[Mapping[str, Any]]) -> list[Message]:
    """The messages of a conversation: a tool's results get one each, and a system prompt that is repeated counts once.
    Raises InvalidRequest for parts that are no text, as pictures."""
    messages: list[Message] = []
    system: Message | None = None
    for one in given:
        results = [part for part in one["parts"] if part["type"] == "tool_result"]
        messages += [result_message(part) for part in results]
        rest = [part for part in one["parts"] if part["type"] != "tool_result"]
        message = message_of(one["role"], rest)
        if not rest or message == system:
            continue
        system = message if message["role"] == "system" else system
        messages.append(message)
    return messages


def message_of(role: str, parts: Iterable[Mapping[str, Any]]) -> Message:
    """One message that is no tool's result. Raises InvalidRequest."""
    said: dict[str, list[str]] = {"content": [], "reasoning": []}
    calls: list[Message] = []
    for part in parts:
        if part["type"] == "tool_call":
            calls.append(call_of(part))
        elif part["type"] in TEXTS:
            said[TEXTS[part["type"]]].append(part["text"])
        else:
            raise InvalidRequest(f"A message has a part of the kind {part['type']!r}; these models read text alone. "
                                 "Leave it out.")  # fmt: skip
    message: Message = {"role": role, "content": "".join(said["content"])}
    if reasoning := "".join(said["reasoning"]):
        message["reasoning"] = reasoning
    return message | ({"tool_calls": calls} if calls else {})


def call_of(part: Mapping[str, Any]) -> Message:
    """A call of a tool, as OpenAI's API has it."""
    function = {"name": part["name"], "arguments": part["arguments"]}
    return {"id": part.get("tool_call_id"), "type": "function", "function": function}


def result_message(part: Mapping[str, Any]) -> Message:
    """The message with a tool's result."""
    if part.get("attachments"):
        raise InvalidRequest("A tool's result has an attachment; these models read text alone. Leave it out.")
    return {"role": "tool", "tool_call_id": part.get("tool_call_id"), "name": part["name"], "content": part["output"]}


def text_of(messages: Iterable[Message]) -> str:
    """The text that a model without a chat template goes on with: all messages, one after the other. Raises
    InvalidRequest for a system prompt and for tools, which it cannot be told of."""
    messages = list(messages)
    if any(message["role"] not in ("user", "assistant") or "tool_calls" in message for message in messages):
        raise InvalidRequest("This model has no chat template: it goes on with a text, and can be given no system "
                             "prompt and no tools. Leave them out, or take a model that was made to chat.")  # fmt: skip
    return "".join(message["content"] for message in messages)
