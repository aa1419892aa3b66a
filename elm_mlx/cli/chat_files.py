"""Files that are named in a chat: their paths, and those with tools or with the schema of an answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from elm_mlx.arguments import named_path
from elm_mlx.errors import InvalidRequest
from elm_mlx.files import MAX_SMALL_BYTES, disk_errors, json_kind, read_bytes


def file_path(name: str) -> Path:
    """The path of a file whose name may begin with ~. Raises InvalidRequest for what can name none."""
    return named_path("The file", os.path.expanduser(name))  # noqa: PTH111, which raises for an unknown user


def read_tools(name: str) -> list[Any]:
    """Reads the tools in a file: a list of JSON schemas of functions, or one. Raises InvalidRequest for anything else,
    ElmError where it cannot be read."""
    found = read_json_file(name, "/tools FILE")
    return found if isinstance(found, list) else [found]


def read_schema(name: str) -> dict[str, Any]:
    """Reads the JSON schema in a file. Raises as `read_tools`."""
    found = read_json_file(name, "/schema FILE")
    if not isinstance(found, dict):
        raise InvalidRequest(f"{name} holds {json_kind(found)}, and a JSON schema is an object. Name another file.")
    return found


def read_json_file(name: str, usage: str) -> Any:
    """Reads the value in a small JSON file."""
    if not name:
        raise InvalidRequest(f"Give a file: {usage}.")
    path = file_path(name)
    with disk_errors(f"{name} cannot be read", "Name another file."):
        path.stat()  # raises where there is none, with the system's reason
        try:
            return json.loads(read_bytes(path, MAX_SMALL_BYTES))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{name} is not valid JSON. Name another file.") from error
