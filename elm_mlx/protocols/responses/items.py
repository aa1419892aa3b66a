"""The items of a response's output, as OpenAI's Responses API writes them: messages, reasoning and function calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.told import arguments_text

if TYPE_CHECKING:
    from elm_mlx.text.tools import ToolCall

Item = dict[str, Any]
IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"  # what a status may be


def message(id: str) -> Item:
    """A message without content, which is being written."""
    return {"type": "message", "id": id, "status": IN_PROGRESS, "role": "assistant", "content": []}


def text_part(text: str = "", logprobs: Sequence[Item] = ()) -> Item:
    """The part of a message that has its text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning(id: str) -> Item:
    """Reasoning without content, which is being written. A summary of it is never made."""
    return {"type": "reasoning", "id": id, "status": IN_PROGRESS, "summary": [], "content": []}


def reasoning_part(text: str = "") -> Item:
    """The part of reasoning that has its text."""
    return {"type": "reasoning_text", "text": text}


def function_call(id: str, call: ToolCall) -> Item:
    """A call without its arguments, which is being written."""
    return {
        "type": "function_call",
        "id": id,
        "call_id": call.id,
        "name": call.name,
        "arguments": "",
        "status": IN_PROGRESS,
    }


def ended(item: Item, status: str, *content: Item) -> Item:
    """An item that is written to its end, with its content."""
    return item | {"status": status} | ({"content": list(content)} if content else {})


def whole_call(id: str, call: ToolCall) -> Item:
    """A call with its arguments."""
    return ended(function_call(id, call), COMPLETED) | {"arguments": arguments_text(call)}


def whole_reasoning(id: str, text: str, status: str) -> Item:
    """Reasoning with its text."""
    return ended(reasoning(id), status, reasoning_part(text))


def whole_message(id: str, text: str, status: str, logprobs: Sequence[Item] = ()) -> Item:
    """A message with its text."""
    return ended(message(id), status, text_part(text, logprobs))
