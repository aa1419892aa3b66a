"""A tokenizer.json in its smallest form: most of a start-up is parsing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint


def compact(content: dict[str, Any], file: Path) -> bytes:
    """The bytes of a tokenizer.json without blanks, and with merges as strings where no piece has a blank.

    Raises BadCheckpoint for text that is not valid Unicode.
    """
    model = content.get("model")
    pairs = model.get("merges") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(pairs, list) and all(is_plain_pair(pair) for pair in pairs):
        content = content | {"model": model | {"merges": [" ".join(pair) for pair in pairs]}}
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise BadCheckpoint(f"{file} has an entry that is not valid Unicode. Fetch it again.") from error


def is_plain_pair(pair: object) -> bool:
    """Whether a merge is a list of two strings that can be written as "left right"."""
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(s, str) and " " not in s for s in pair)
