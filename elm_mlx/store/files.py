"""Small files of a checkpoint: JSON read with a bound, errors of the disk as sentences."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint, DiskFull, ElmError, NotFound

MAX_JSON_BYTES = 100 * 2**20  # a 405B index has 1 MB, a large tokenizer.json 20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises NotFound, or BadCheckpoint for anything but one object of sane size."""
    try:
        with reading(path):
            if not path.exists():
                raise NotFound(f"There is no {path.name} in {path.parent.absolute()}. Give a model's directory.")
            if path.stat().st_size > MAX_JSON_BYTES:
                raise BadCheckpoint(f"{path} is over {MAX_JSON_BYTES >> 20} MB, too large to be what its name says.")
            value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not valid JSON ({type(error).__name__}); fetch it again.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds a {type(value).__name__}, where an object belongs.")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is no file."""
    with reading(path):
        return read_json(path) if path.exists() else {}


def write_json(path: Path, value: object) -> None:
    """Writes `value` with its keys in their order and two blanks of indent, as Hugging Face does."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def disk_errors(what: str, advice: str = "Check its permissions, or name another --output.") -> Iterator[None]:
    """Turns the operating system's refusals into errors that say what was refused and what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ElmError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"{what}: the disk is full. Free some space, or name another --output.") from error
        raise ElmError(f"{what}: {error.strerror or error}. {advice}") from error


def reading(path: Path) -> AbstractContextManager[None]:
    """The same for reading `path`."""
    return disk_errors(f"{path} cannot be read", "Check its permissions.")
