"""The messages of a line, in OpenAI's form, as a chat template wants them: a role and a text each."""

from __future__ import annotations

from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.errors import InvalidRequest

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
KEPT = ("reasoning_content", "thinking", "reasoning")  # what templates read beside the content
WITHOUT_EFFECT = ("role", "content", "name")


def read_messages(value: object) -> list[dict[str, Any]]:
    """Reads a list of messages; parts of a content that are texts are joined. Raises InvalidRequest for what no
    message has, and for what elm-mlx cannot show a model: images, sounds, files, calls of tools."""
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"messages is {shown(value)}; it must be a list of one message or more.")
    return [read_message(f"messages[{place}]", message) for place, message in enumerate(value)]


def read_message(where: str, message: object) -> dict[str, Any]:
    """Reads one message, which errors call `where`."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{where} is {shown(message)}; it must be an object with a role and a content.")
    if message["role"] not in ROLES:
        raise InvalidRequest(f"{where}.role is {shown(message['role'])}; elm-mlx knows {', '.join(ROLES)}.")
    kept = {name: message[name] for name in KEPT if message.get(name) is not None}
    for name, value in message.items():
        if name not in (*WITHOUT_EFFECT, *KEPT) and value not in (None, []):
            raise InvalidRequest(f"{where}.{name:.80} is not something that elm-mlx can give to a model. Leave it out.")
    return {"role": ROLES[message["role"]], "content": read_content(f"{where}.content", message.get("content"))} | kept


def read_content(where: str, content: object) -> str:
    """Reads a content: a text, or a list of parts that are texts, joined. Raises InvalidRequest for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{where} is {shown(content)}; it must be a text or a list of parts.")
    for place, part in enumerate(content):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise InvalidRequest(f"{where}[{place}] is no part with a text, and elm-mlx reads nothing else.")
    return "".join(part["text"] for part in content)
