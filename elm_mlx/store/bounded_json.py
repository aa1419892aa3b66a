"""JSON whose cost is known before it is read: the values in it are counted first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint
from elm_mlx.files import json_kind

MAX_VALUES = 500_000  # eight for each matrix of a header; the largest model that elm-mlx runs has 27,000 tensors


def parse_bounded(raw: bytes, path: Path, what: str = "", **hooks: Any) -> dict[str, Any]:
    """Parses a JSON object, which is the file `path`, or the part of it that errors call `what`; `hooks` are of
    json.loads.

    Raises BadCheckpoint for more than MAX_VALUES values, and for anything but an object in JSON.
    """
    named = f"{path}: {what}" if what else f"{path}"
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:  # before a value stands one of these
        raise BadCheckpoint(f"{named} lists over 60,000 tensors, and no model here has so many. Fetch it again.")
    try:
        value = json.loads(raw.decode(), **hooks)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair fails here
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{named} is not valid JSON. Fetch it again.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{named} holds {json_kind(value)}, where an object belongs. Fetch it again.")
    return value
