"""Bytes of a stranger's as one JSON object, within bounds: whatever they are, they cost little and raise a sentence."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.files import json_kind

MAX_VALUES = 500_000  # prompts of ids have one for each id


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    """Parses JSON, which errors call `name`. Raises InvalidRequest for anything but one JSON object in UTF-8 that names
    each key once, has up to MAX_VALUES values and holds texts that can be written again."""
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:  # before a value stands one of these
        raise InvalidRequest(f"{name} holds over {MAX_VALUES:,} values or commas, more than any model reads.")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=object_of, parse_constant=refuse_constant)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair fails here
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} {why_not(error)}.") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} holds {json_kind(value)}, where an object belongs.")
    return value


def why_not(error: ValueError | RecursionError) -> str:
    """What is wrong with bytes that cannot be parsed."""
    match error:
        case json.JSONDecodeError():
            return f"is not valid JSON: {error.msg} at character {error.pos + 1}"
        case UnicodeDecodeError():
            return f"is not UTF-8 text: byte {error.start + 1} is none"
        case UnicodeEncodeError():
            return "holds half a surrogate pair (\\ud800 to \\udfff), which is no text"
        case RecursionError():
            return "holds lists or objects too deep within one another"
        case InvalidRequest():
            return error.message
    return "holds a number with thousands of digits"


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its keys and values. Raises InvalidRequest for a key that comes twice: which counts?"""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidRequest(f"names {twice!r:.80} twice in one object")
    return made


def refuse_constant(name: str) -> None:
    """Raises InvalidRequest for NaN and Infinity, which Python reads and JSON does not have."""
    raise InvalidRequest(f"is not valid JSON: {name} is not a number there")
