"""A conversation as the file that chat's /save writes and /load reads: the transcript of its session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from elm_mlx.arguments import named_path
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.files import disk_errors, write_whole

Messages = list[dict[str, Any]]


def file_path(name: str) -> Path:
    """The path of a file whose name may begin with ~. Raises InvalidRequest for what can name none."""
    return named_path("The file", os.path.expanduser(name))  # noqa: PTH111, which raises for an unknown user


def save(name: str, messages: Messages) -> None:
    """Writes a conversation whole or not at all. Raises InvalidRequest for a file that holds anything else than a
    conversation, ElmError if it cannot be written."""
    from elm_mlx.api.transcript import written  # here, as --help needs no MLX

    path = file_path(name)
    with disk_errors(f"{name} cannot be written", "Name another file.", instead="name another file"):
        if path.exists() and not (path.is_file() and path.stat().st_size == 0):
            refuse_other_file(path)
        write_whole(path, written(messages))


def refuse_other_file(path: Path) -> None:
    """Raises InvalidRequest unless a conversation is in a file, which may then be replaced."""
    from elm_mlx.api.transcript import parse  # here, as --help needs no MLX

    try:
        parse(path)
    except (InvalidRequest, BadCheckpoint) as error:
        raise InvalidRequest(
            f"{path} is there already, and is no conversation that /save wrote. Name another file."
        ) from error


def load(name: str) -> tuple[str | None, Messages]:
    """Reads (the system message, the messages) of a conversation. Raises InvalidRequest for other files, ElmError for
    one that cannot be read."""
    from elm_mlx.api.transcript import parse  # here, as --help needs no MLX

    path = file_path(name)
    with disk_errors(f"{name} cannot be read", "Name another file."):
        path.stat()  # raises where there is none, with the system's reason
        try:
            messages = parse(path)
        except InvalidRequest as error:
            raise InvalidRequest(f"{name} is no conversation that /save wrote. Name another file.") from error
    is_told = bool(messages) and messages[0]["role"] == "system"
    return messages[0]["content"] if is_told else None, messages[is_told:]
