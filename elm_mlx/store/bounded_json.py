"""JSON whose cost is known before it is read: the values in it are counted first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint

MAX_VALUES = 500_000  # eight for each matrix of a header; the largest model that elm-mlx runs has 27,000 tensors


def parse_bounded(raw: bytes, path: Path, what: str = "it", **hooks: Any) -> dict[str, Any]:
    """Parses a JSON object, which is or lies in the file `path`; `what` calls it in errors, `hooks` are of json.loads.

    Raises BadCheckpoint for more than MAX_VALUES values, and for anything but an object in JSON.
    """
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:  # before a value stands one of these
        raise BadCheckpoint(f"{path}: {what} lists over 60,000 tensors, more than any model here has. Fetch it again.")
    try:
        value = json.loads(raw.decode(), **hooks)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair fails here
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path}: {what} is not valid JSON. Fetch it again.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: {what} is a {type(value).__name__}, where an object belongs. Fetch it again.")
    return value
