"""A conversation as the file that chat's /save writes and /load reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

from elm_mlx.arguments import named_path
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.files import MAX_LARGE_BYTES, disk_errors, read_bytes, write_whole

Messages = list[dict[str, str]]


def file_path(name: str) -> Path:
    """The path of a file whose name may begin with ~. Raises InvalidRequest for what can name none."""
    return named_path("The file", os.path.expanduser(name))  # noqa: PTH111, which raises for an unknown user


def save(name: str, system: str | None, messages: Messages) -> None:
    """Writes a conversation whole or not at all. Raises InvalidRequest for a file that holds anything else than a
    conversation, ElmError if it cannot be written."""
    path = file_path(name)
    with disk_errors(f"{name} cannot be written", "Name another file.", instead="name another file"):
        if path.exists() and not (path.is_file() and path.stat().st_size == 0):
            refuse_other_file(path)
        write_whole(path, json.dumps({"system": system, "messages": messages}, indent=2) + "\n")


def refuse_other_file(path: Path) -> None:
    """Raises InvalidRequest unless a conversation is in a file, which may then be replaced."""
    try:
        parse(path)
    except (ValueError, BadCheckpoint) as error:
        raise InvalidRequest(
            f"{path} is there already, and no conversation that /save wrote. Name another file."
        ) from error


def load(name: str) -> tuple[str | None, Messages]:
    """Reads (the system message, the messages) of a conversation. Raises InvalidRequest for other files, ElmError for
    one that cannot be read."""
    path = file_path(name)
    with disk_errors(f"{name} cannot be read", "Name another file."):
        path.stat()  # raises where there is none, with the system's reason
        try:
            return parse(path)
        except ValueError as error:
            raise InvalidRequest(f"{name} is no conversation that /save wrote.") from error


def parse(path: Path) -> tuple[str | None, Messages]:
    """Reads what `load` gives. Raises ValueError for other files, and as `read_bytes`."""
    try:
        saved = json.loads(read_bytes(path, MAX_LARGE_BYTES))
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in saved["messages"]]
        return None if saved.get("system") is None else str(saved["system"]), messages
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no conversation") from error
