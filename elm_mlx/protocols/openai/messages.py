"""The messages of a chat, as a chat template wants them: a role, a text, calls of tools and their results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.openai.values import as_text
from elm_mlx.protocols.refusal import FieldRefused

# role in the API -> role that templates know
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
REASONING = ("reasoning_content", "thinking", "reasoning")  # what templates read beside the content
KNOWN = ("role", "content", *REASONING, "tool_calls", "tool_call_id")
# What clients send along, often from an answer of ours, and no template reads.
HARMLESS = ("name", "refusal", "annotations", "id", "object", "index")
PART = ("type", "text", "refusal", "cache_control")  # what a part of a content may have
NEUTRAL: tuple[Any, ...] = (None, [], "", {})  # values by which no key of a message says anything
MISSING = "missing_required_parameter"


def read_messages(value: object) -> tuple[list[dict[str, Any]], list[str]]:
    """(the messages, the names of keys in them that are unknown, each once). Parts of a content that are texts are
    joined. Raises FieldRefused for what is no message, and for what cannot be shown to a model: images, sounds,
    files."""
    if not isinstance(value, list) or not value:
        raise FieldRefused("messages", f"messages is {shown(value)}; it must be a list of one message or more.",
                           MISSING if value is None else "invalid_value")  # fmt: skip
    messages = [read_message(f"messages[{place}]", message) for place, message in enumerate(value)]
    return messages, list(dict.fromkeys(name for message in value for name in unknown_keys(message)))


def unknown_keys(message: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a message, and of the parts of its content, that nobody reads and that have a value."""
    for name, given in message.items():
        if name not in (*KNOWN, *HARMLESS) and given not in NEUTRAL:
            yield f"messages[].{name:.64}"
    content = message.get("content")
    for part in content if isinstance(content, list) else []:
        for name, given in part.items():
            if name not in PART and given not in NEUTRAL:
                yield f"messages[].content[].{name:.64}"


def read_message(where: str, message: object) -> dict[str, Any]:
    """Reads one message, which errors call `where`. Raises FieldRefused."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise FieldRefused(where, f"{where} is {shown(message)}; it must be an object with a role and a content.")
    role = ROLES.get(message["role"])
    if role is None:
        raise FieldRefused(f"{where}.role", f"{where}.role is {shown(message['role'])}; elm-mlx knows "
                           f"{', '.join(ROLES)}.")  # fmt: skip
    for name in ("audio", "function_call"):
        if message.get(name) is not None:
            raise FieldRefused(f"{where}.{name}", f"{where}.{name} cannot be shown to a model. Leave it out.",
                               "unsupported_parameter")  # fmt: skip
    read: dict[str, Any] = {"role": role}
    read |= {name: as_text(f"{where}.{name}", message[name]) for name in REASONING if message.get(name) is not None}
    if calls := read_calls(f"{where}.tool_calls", message.get("tool_calls")):
        only_of("assistant", role, f"{where}.tool_calls")
        read["tool_calls"] = calls
    if role == "tool":
        read |= answered_call(where, message)
    # Some clients send an empty list beside calls.
    if message.get("content") not in (None, []) or len(read) == 1 or role != "assistant":
        read["content"] = read_content(f"{where}.content", message.get("content"))
    return read


def only_of(owner: str, role: str, where: str) -> None:
    """Raises FieldRefused for what only messages of one role have."""
    if role != owner:
        raise FieldRefused(where, f"{where} stands in a message of the role {role}; only one of {owner} has it.")


def answered_call(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message of a tool says beside its content: which call it answers. Raises FieldRefused."""
    if message.get("tool_call_id") is None:
        raise FieldRefused(f"{where}.tool_call_id", f"{where} has no tool_call_id, so nobody knows which call it "
                           "answers. Give it the id of the call.", MISSING)  # fmt: skip
    found = {"tool_call_id": as_text(f"{where}.tool_call_id", message["tool_call_id"])}
    return found if message.get("name") is None else found | {"name": as_text(f"{where}.name", message["name"])}


def read_calls(where: str, calls: object) -> list[dict[str, Any]]:
    """The calls of tools in a message; none where the field is absent. Raises FieldRefused."""
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise FieldRefused(where, f"{where} is {shown(calls)}; it must be a list of calls.")
    return [read_call(f"{where}[{place}]", call) for place, call in enumerate(calls)]


def read_call(where: str, call: object) -> dict[str, Any]:
    """One call, its arguments as an object. Raises FieldRefused."""
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        raise FieldRefused(where, f"{where} is {shown(call)}; it must be an object with an id and a function.")
    if call.get("type") not in (None, "function"):
        raise FieldRefused(f"{where}.type", f"{where}.type is {shown(call['type'])}; it must be function.")
    function = call["function"]
    name = as_text(f"{where}.function.name", function.get("name"))
    arguments = read_arguments(f"{where}.function.arguments", function.get("arguments"))
    id = as_text(f"{where}.id", call.get("id"))
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def read_arguments(where: str, arguments: object) -> dict[str, Any]:
    """The arguments of a call, from the text of a JSON object; an object itself is taken, too. Raises FieldRefused."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(as_text(where, arguments) or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise FieldRefused(where, f"{where} must be the text of a JSON object.")
    return arguments


def read_content(where: str, content: object) -> str:
    """A content: a text, or a list of parts that are texts, joined. Raises FieldRefused for anything else."""
    if isinstance(content, str):
        return as_text(where, content)
    if not isinstance(content, list) or not content:
        code = MISSING if content is None else "invalid_value"
        raise FieldRefused(where, f"{where} is {shown(content)}; it must be a text or a list of parts.", code)
    return "".join(read_part(f"{where}[{place}]", part) for place, part in enumerate(content))


def read_part(where: str, part: object) -> str:
    """The text of one part of a content. Raises FieldRefused for a part of another kind: an image, a sound, a file."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in ("text", "refusal"):
        return as_text(f"{where}.{kind}", part.get(str(kind)))
    code = "unsupported_content_type" if isinstance(kind, str) else "invalid_value"
    raise FieldRefused(f"{where}.type", f"{where} is no part with a text, and elm-mlx reads nothing else.", code)


def ends_with_beginning(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is one of the assistant's that can be continued: a text, without calls."""
    last = messages[-1]
    return last["role"] == "assistant" and "tool_calls" not in last and "content" in last
