"""One line of a file as a JSON object, within bounds: whatever bytes stand there cost little and raise a sentence."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, BinaryIO

from elm_mlx.errors import InvalidRequest
from elm_mlx.files import json_kind, readable_size

MAX_LINE = 16 * 2**20  # bytes; a context of a million tokens is a text of 6 MB
MAX_VALUES = 500_000  # in one line: prompts of ids have one for each id


def read_line(file: BinaryIO) -> bytes | None:
    """Reads the next line with its newline: b"" at the end of the file, None for one of over MAX_LINE bytes, which is
    read past and never held whole."""
    raw = file.readline(MAX_LINE + 1)
    if len(raw) <= MAX_LINE:
        return raw
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(MAX_LINE)
    return None


def parse_line(raw: bytes | None, name: str) -> dict[str, Any]:
    """Parses what `read_line` gives, which errors call `name`. Raises InvalidRequest for anything but one JSON object
    in UTF-8 that names each key once and holds texts that can be written again."""
    if raw is None:
        raise InvalidRequest(f"{name} has over {readable_size(MAX_LINE)}, more than any model reads.")
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
    """What is wrong with a line that cannot be parsed."""
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
    raise InvalidRequest(f"is not valid JSON: {name} is no number there")
