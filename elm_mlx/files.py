"""Small files read within bounds, the disk's room and its refusals as sentences, and bytes in words."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint, DiskFull, ElmError, NotFound

MAX_SMALL_BYTES = 2**20  # of a configuration or template: Llama 3.1's largest has 55 kB
MAX_LARGE_BYTES = 100 * 2**20  # of an index or a tokenizer.json: a 405B's index has 1 MB, a large tokenizer.json 20


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of up to `limit` bytes.

    Raises NotFound, or BadCheckpoint for a larger one and for a pipe or device, which might never end.
    """
    with reading(path):
        if not path.exists():
            raise NotFound(f"There is no {path.name} in {path.parent.absolute()}. Give a model's directory.")
        if not path.is_file():
            raise BadCheckpoint(f"{path} cannot be read: it is a folder, a pipe or a device. Put a file there.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise BadCheckpoint(f"{path} is over {limit / 2**20:g} MB, too large to be what its name says.")
    return data


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of up to `limit` bytes. Raises as `read_bytes`, and BadCheckpoint for other bytes."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{path} is not UTF-8 text; fetch it again.") from error


def read_json(path: Path, limit: int = MAX_SMALL_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Raises as `read_bytes`, and BadCheckpoint for anything but one object."""
    try:
        value = json.loads(read_bytes(path, limit))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not valid JSON ({type(error).__name__}); fetch it again.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds a {type(value).__name__}, where an object belongs.")
    return value


def optional_json(path: Path, limit: int = MAX_SMALL_BYTES) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is no file. Raises as `read_json`."""
    with reading(path):
        return read_json(path, limit) if path.exists() else {}


def write_json(path: Path, value: object) -> None:
    """Writes `value` with its keys in their order and two blanks of indent, as Hugging Face does."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def disk_errors(what: str, advice: str = "Check its permissions, or name another {output}.") -> Iterator[None]:
    """Turns the operating system's refusals into errors that say what was refused and what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ElmError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"{what}: the disk is full.", "Free some space, or name another {output}.") from error
        raise ElmError(f"{what}: {error.strerror or error}.", advice) from error


def reading(path: Path) -> AbstractContextManager[None]:
    """Turns the operating system's refusals to read `path` into errors that say so."""
    return disk_errors(f"{path} cannot be read", "Check its permissions.")


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return path if path.exists() else nearest_existing(path.parent)


def free_space(path: Path) -> int:
    """Bytes that are free on the disk where `path` is or would be."""
    return shutil.disk_usage(nearest_existing(path)).free


def gigabytes(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
