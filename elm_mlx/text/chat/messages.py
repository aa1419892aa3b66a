"""Checks the messages of a caller, and copies them in plain JSON types, before a template sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.text.chat.calls import with_calls

Edit = Callable[[str], str]
MAX_DEPTH = 64  # of lists in lists: hashing deeper tuples can overflow the C stack
MAX_BITS = 4096  # of an integer
EXAMPLE = "{'role': 'user', 'content': 'Hi'}"
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one thing, in the order in which they are read


def plain_json(value: object, text: Edit = str, name: Edit | None = None, depth: int = MAX_DEPTH) -> Any:
    """Copies a caller's value in plain JSON types, `text` applied to every string, but `name` to keys and roles where
    it is given. Raises InvalidRequest for other types."""
    name = name or text
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return text(str.__str__(value))
    if isinstance(value, int) and value.bit_length() <= MAX_BITS:
        return int(value)
    if isinstance(value, Mapping) and depth and all(isinstance(key, str) for key in value):
        edits = {key: name if key == "role" else text for key in value}
        return {name(str.__str__(key)): plain_json(item, edits[key], name, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [plain_json(item, text, name, depth - 1) for item in value]
    raise InvalidRequest(f"The messages hold a value of type {type(value).__name__} that is not JSON, or is too large. "
                         f"Give texts, numbers, lists and objects, up to {MAX_DEPTH} within one another.")  # fmt: skip


def check_message(place: int, message: object) -> dict[str, Any]:
    """Returns one message as transformers gives it to templates: without keys that are null, and its reasoning under
    the names that templates read, and the arguments of its calls as objects. Raises InvalidRequest for anything that is
    no message."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"Message {place} must be an object with a role, such as {EXAMPLE}.")
    given = {key: value for key, value in with_calls(place, message).items() if value is not None}
    content, reasoning = given.get("content"), next((given[name] for name in REASONING if name in given), None)
    parts = isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content)
    if not (isinstance(content, str) or parts or (content is None and (reasoning or given.get("tool_calls")))):
        raise InvalidRequest(f"Message {place} has neither content (a text or a list of parts) nor tool_calls. Add it.")
    return given if reasoning is None else {"thinking": reasoning} | given | {"reasoning_content": reasoning}


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Returns the messages of a conversation, without keys that are null. Raises InvalidRequest for anything else."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise InvalidRequest(f"A chat is a list of one message or more, such as [{EXAMPLE}].")
    return [check_message(place, message) for place, message in enumerate(messages, 1)]
