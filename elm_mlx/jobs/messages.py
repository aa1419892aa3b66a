"""The messages of a line, in OpenAI's form; a line has no tools, so no message has calls or results of any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.protocols.openai import messages as openai


def read_messages(value: object) -> list[dict[str, Any]]:
    """Reads a list of messages, as `elm_mlx.protocols.openai.messages` does. Raises InvalidRequest for what no message
    has, and for calls of tools and their results."""
    for place, message in enumerate(value if isinstance(value, list) else []):
        if isinstance(message, Mapping):
            refuse_tools(f"messages[{place}]", message)
    messages, unknown = openai.read_messages(value)
    if unknown:
        raise InvalidRequest(f"{unknown[0]} is not something that elm-mlx can give to a model. Leave it out.")
    return messages


def refuse_tools(where: str, message: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a message, which errors call `where`, that has to do with tools."""
    if message.get("role") == "tool":
        known = ", ".join(role for role in openai.ROLES if role != "tool")
        raise InvalidRequest(f"{where}.role is 'tool'; in a line elm-mlx knows {known}.")
    for name in ("tool_calls", "tool_call_id"):
        if message.get(name):
            raise InvalidRequest(f"{where}.{name} is not something that elm-mlx can give to a model here. Leave it "
                                 "out.")  # fmt: skip
