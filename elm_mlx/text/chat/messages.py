"""The messages of a caller: checked, and copied in plain JSON types, before a template sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elm_mlx.errors import InvalidRequest

MAX_DEPTH = 64  # of lists in lists
MAX_BITS = 4096  # of an integer
EXAMPLE = "{'role': 'user', 'content': 'Hi'}"


def plain_json(value: object, text: Callable[[str], str] = str, depth: int = MAX_DEPTH) -> Any:
    """A copy of the caller's value in plain JSON types, every string through `text`."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return text(str.__str__(value))
    if isinstance(value, int) and value.bit_length() <= MAX_BITS:
        return int(value)
    if isinstance(value, Mapping) and depth and all(isinstance(key, str) for key in value):
        return {text(str.__str__(key)): plain_json(item, text, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [plain_json(item, text, depth - 1) for item in value]
    raise InvalidRequest(f"The messages hold a {type(value).__name__} that is not JSON: give them as texts, numbers, "
                         "lists and objects with texts as keys.")  # fmt: skip


def check_message(place: int, message: object) -> dict[str, Any]:
    """One message without keys that are null, as transformers drops them. Raises InvalidRequest for what is none."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"Message {place} is no object with a role, such as {EXAMPLE}.")
    content = message.get("content")
    parts = isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content)
    if not (isinstance(content, str) or parts or (content is None and message.get("tool_calls"))):
        raise InvalidRequest(f"Message {place} has no content: it needs a text, or a list of parts, or tool_calls.")
    return {key: value for key, value in message.items() if value is not None}


def check_messages(messages: object) -> list[dict[str, Any]]:
    """The messages of a conversation, without keys that are null. Raises InvalidRequest for what is no conversation."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise InvalidRequest(f"A chat is a list of messages, such as [{EXAMPLE}].")
    return [check_message(place, message) for place, message in enumerate(messages, 1)]
