"""The messages of a request become those that chat templates read."""

from __future__ import annotations

from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.protocols.fields import Fields

BILLING = "x-anthropic-billing-header:"
ROLES = ("user", "assistant", "system")
TEXT = ("type", "text", "cache_control", "citations")
THINKING = ("type", "thinking", "signature", "cache_control")
TOOL_USE = ("type", "id", "name", "input", "cache_control", "caller", "toolset_name")
TOOL_RESULT = ("type", "tool_use_id", "content", "is_error", "cache_control", "toolset_name")
UNREADABLE = ("image", "document", "search_result", "container_upload")  # blocks with what models here cannot read


def read_messages(body: Fields) -> list[dict[str, Any]]:
    """The messages of a request, its system text as the first. Raises FieldRefused."""
    messages = [] if (system := system_of(body)) is None else [{"role": "system", "content": system}]
    if not body.listed("messages"):
        body.wrong("messages", "a list of one message or more")
    for message in body.objects("messages"):
        role = message.one_of("role", ROLES) or message.wrong("role", " or ".join(ROLES))
        message.check(("role", "content"))
        messages += [of_assistant(message)] if role == "assistant" else of_user(message, role)
    if all(message["role"] == "system" for message in messages):
        body.refuse("messages", "has nothing that elm-mlx can give to a model.")
    return messages


def system_of(body: Fields) -> str | None:
    """The system text, its blocks as lines, without those of BILLING; None where there is none. Raises FieldRefused."""
    if body.get("system") is None:
        return None
    text = body.text("system") if isinstance(body.get("system"), str) else texts_of(body, "system")
    return "\n".join(line for line in (text or "").split("\n") if not line.lstrip().startswith(BILLING)) or None


def texts_of(at: Fields, name: str) -> str:
    """Blocks that are all texts, as lines. Raises FieldRefused for blocks of other kinds."""
    return "\n".join(map(text_of, at.objects(name)))


def text_of(block: Fields) -> str:
    """The text of a block. Raises FieldRefused for a block of another kind."""
    if (kind := block.full_text("type")) != "text":
        block.refuse_kind(kind)
    block.check(TEXT)
    text = block.text("text")
    return block.wrong("text", "a text") if text is None else text


def of_assistant(message: Fields) -> dict[str, Any]:
    """One message of the model's: its text, its thinking and its calls. Raises FieldRefused."""
    found: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    if isinstance(message.get("content"), str):
        return {"role": "assistant", "content": message.text("content")}
    for block in blocks_of(message):
        match kind := block.full_text("type"):
            case "text":
                found[kind].append(text_of(block))
            case "thinking":
                block.check(THINKING)
                found[kind].append(block.text("thinking") or "")
            case "tool_use":
                found[kind].append(call_of(block))
            case _:
                leave_out(block, kind)
    # Its texts are joined as they are: they are one answer.
    made = {"role": "assistant", "content": "".join(found["text"]) if found["text"] or not found["tool_use"] else None}
    reasoning = {"reasoning_content": "".join(found["thinking"])} if found["thinking"] else {}
    return made | reasoning | ({"tool_calls": found["tool_use"]} if found["tool_use"] else {})


def of_user(message: Fields, role: str) -> list[dict[str, Any]]:
    """The messages that one of the user's stands for: its results of tools, each its own, and its text between them.
    Raises FieldRefused."""
    if isinstance(message.get("content"), str):
        return [{"role": role, "content": message.text("content")}]
    messages: list[dict[str, Any]] = []
    for block in blocks_of(message):
        kind = block.full_text("type")
        if kind == "tool_result":
            messages.append(result_of(block))
        elif kind == "text" or kind in UNREADABLE:
            add_text(messages, role, text_of(block))
        else:
            leave_out(block, kind)
    return messages


def add_text(messages: list[dict[str, Any]], role: str, text: str) -> None:
    """Adds a text to the messages that one message stands for: a line of the last one where that has text, too."""
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"] += f"\n{text}"
    else:
        messages.append({"role": role, "content": text})


def blocks_of(message: Fields) -> list[Fields]:
    """The blocks of a message. Raises FieldRefused where there are none."""
    if not message.listed("content"):
        message.wrong("content", "a text, or a list of one block or more")
    return list(message.objects("content"))


def call_of(block: Fields) -> dict[str, Any]:
    """A call of a tool, as templates read it. Raises FieldRefused."""
    block.check(TOOL_USE)
    function = {"name": block.full_text("name"), "arguments": dict(block.inner("input").value)}
    return {"id": block.full_text("id"), "type": "function", "function": function}


def result_of(block: Fields) -> dict[str, Any]:
    """The result of a call, as templates read it. That it is an error stands before it. Raises FieldRefused."""
    block.check(TOOL_RESULT)
    text = block.text("content") if isinstance(block.get("content"), str) else texts_of(block, "content")
    text = f"Error: {text}" if block.flag("is_error") else text
    return {"role": "tool", "tool_call_id": block.full_text("tool_use_id"), "content": text}


def leave_out(block: Fields, kind: str) -> None:
    """Notes a block of a kind that is not known, or that nobody can read. Raises FieldRefused where strict."""
    if kind in UNREADABLE:
        text_of(block)
    if kind != "redacted_thinking":
        block.leftovers.add(block.at, f"{block.at} is a block of type {shown(kind)}, which elm-mlx does not know.")
