"""JSON files that are named in a chat: tools, and the schema of an answer."""

from __future__ import annotations

import json
from typing import Any

from elm_mlx.cli.conversation import file_path
from elm_mlx.errors import InvalidRequest
from elm_mlx.files import MAX_SMALL_BYTES, disk_errors, json_kind, read_bytes


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
