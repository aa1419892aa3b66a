"""The answer of a chat completion: its message, its choices, and the whole object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.openai.answers import reason_of

if TYPE_CHECKING:
    from elm_mlx.api import Completion
    from elm_mlx.text.tools import ToolCall


def message_of(completion: Completion, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The message of an answer, with those of its calls that count. Where it has only calls its content is null."""
    content = None if calls and not completion.text else completion.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if completion.reasoning is not None:
        message["reasoning_content"] = completion.reasoning
    if calls:
        message["tool_calls"] = [call_of(call) for call in calls]
    return message


def call_of(call: ToolCall) -> dict[str, Any]:
    """A call of a tool; its arguments are a text."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_of(call)}}


def arguments_of(call: ToolCall) -> str:
    """The arguments of a call, as the text of a JSON object."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)


def choice_of(
    index: int, completion: Completion, logprobs: Any = None, most_calls: int | None = None
) -> dict[str, Any]:
    """One choice of a chat.completion, with at most so many calls."""
    message = message_of(completion, completion.tool_calls[:most_calls])
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason_of(completion)}
