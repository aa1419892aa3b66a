"""Calls of tools in the messages of a conversation, in the form that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.text.tools import ToolCall
from elm_mlx.text.tools.wordings import ID_LENGTH

CALLS = "tool_calls"


def with_calls(place: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns message number `place` with its calls as templates read them: their arguments as objects, where OpenAI's
    API has the text of one, and a ToolCall as an object; without an empty list of calls, in which some templates see
    one. Raises InvalidRequest for what is no call."""
    given = dict(message)
    calls = given.pop(CALLS, None)
    if not calls:
        return given
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Sequence):
        raise InvalidRequest(f"Message {place} has tool_calls that are not a list. Give a list of calls.")
    return given | {CALLS: [as_object(place, call) for call in calls]}


def as_object(place: int, call: object) -> Any:
    """A call as OpenAI's API has it, but for its arguments, which are an object. Raises InvalidRequest."""
    if isinstance(call, ToolCall):
        function = {"name": call.name, "arguments": dict(call.arguments)}
        return {"id": call.id, "type": "function", "function": function}
    if not isinstance(call, Mapping):
        raise InvalidRequest(f"Message {place} has a tool call that is not an object. Give it id and function.")
    inner = call.get("function")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("arguments"), str):
        return call
    try:
        arguments = json.loads(inner["arguments"] or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"Message {place} calls {inner.get('name')} with arguments that are not a JSON object. "
                             "Give the object, or its text.")  # fmt: skip
    return {**call, "function": {**inner, "arguments": arguments}}


def one_call_a_message(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with each call in one of its own, followed by its result: for templates that refuse several."""
    found: list[dict[str, Any]] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get(CALLS)
        if not isinstance(calls, list) or len(calls) < 2:
            found.append(dict(message))
            continue
        results = []
        while place < len(messages) and messages[place].get("role") == "tool":
            results.append(dict(messages[place]))
            place += 1
        found += interleaved(message, calls, results)
    return found


def interleaved(
    message: Mapping[str, Any], calls: Sequence[Any], results: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A message for each call of one message, each before its result: that with the call's id, else the next one."""
    said = {key: value for key, value in message.items() if key not in (CALLS, "content")}
    for number, call in enumerate(calls):
        yield {**(message if not number else said), CALLS: [call]}
        named = [one for one in results if one.get("tool_call_id") == call.get("id")]
        if result := next(iter(named or results), None):
            results.remove(result)
            yield result
    yield from results


def with_short_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with ids of calls of nine letters and digits, made of those that they have: for templates that
    refuse all others."""
    return [short_ids_in(message) for message in messages]


def short_ids_in(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with short ids of its calls, or of the call whose result it is."""
    found = dict(message)
    if isinstance(calls := message.get(CALLS), list):
        found[CALLS] = [{**call, "id": short_id(call.get("id"))} if isinstance(call, dict) else call for call in calls]
    if "tool_call_id" in message:
        found["tool_call_id"] = short_id(message["tool_call_id"])
    return found


def short_id(call_id: object) -> str:
    """An id of nine letters and digits, the same one for the same id."""
    text = str(call_id)
    return text if len(text) == ID_LENGTH and text.isalnum() else sha256(text.encode()).hexdigest()[:ID_LENGTH]
