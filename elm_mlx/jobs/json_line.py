"""One line of a file as a JSON object, within bounds: whatever bytes stand there cost little and raise a sentence."""

from __future__ import annotations

from typing import Any, BinaryIO

from elm_mlx.errors import InvalidRequest
from elm_mlx.files import readable_size
from elm_mlx.protocols.json_object import parse_object

MAX_LINE = 16 * 2**20  # bytes; a context of a million tokens is a text of 6 MB


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
        raise InvalidRequest(f"{name} has over {readable_size(MAX_LINE)}, more than any model reads. Shorten it.")
    return parse_object(raw, name)
