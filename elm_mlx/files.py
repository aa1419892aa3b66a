"""Small files read within bounds, room on disks, the operating system's errors as sentences, and bytes in words."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from elm_mlx.errors import BadCheckpoint, DiskFull, ElmError, NotFound

MAX_SMALL_BYTES = 2**20  # of a configuration: the largest have a few kB
MAX_LARGE_BYTES = 100 * 2**20  # of an index or a tokenizer.json: the largest have 1 MB and 20 MB
# How a file begins that a clone without Git LFS leaves in place of a large one.
LFS_POINTER = b"version https://git-lfs"
PARTIAL = ".elm-mlx-*.partial"  # the name of a file that is not whole yet
SPARE_BYTES = 64 * 10**6  # of disk that stay free beside what is written: for small files, and other programs


def read_bytes(path: Path, limit: int) -> bytes:
    """Reads a file of up to `limit` bytes.

    Raises NotFound where there is none, and BadCheckpoint for a larger file, for a Git LFS pointer, or for a pipe or a
    device, which might never end.
    """
    with reading(path):
        if not path.exists():
            raise NotFound(f"There is no {path.name} in {path.parent.absolute()}. Give a model's directory.")
        if not path.is_file():
            raise BadCheckpoint(f"{path} cannot be read: it is a folder, a pipe or a device. Put a file there.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise BadCheckpoint(f"{path} is over {limit / 2**20:g} MB, too large to be what its name says; fetch it again.")
    if data.startswith(LFS_POINTER):
        raise BadCheckpoint(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned."
        )
    return data


def read_text(path: Path, limit: int) -> str:
    """Reads a text of up to `limit` bytes. Raises as `read_bytes`, and BadCheckpoint for text that is not UTF-8."""
    try:
        return read_bytes(path, limit).decode()
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{path} is not UTF-8 text; fetch it again.") from error


def read_json(path: Path, limit: int = MAX_SMALL_BYTES) -> dict[str, Any]:
    """Reads the object in a JSON file. Raises as `read_bytes`, and BadCheckpoint for anything but one object."""
    try:
        value = json.loads(read_bytes(path, limit))
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is not valid JSON; fetch it again.") from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} holds {json_kind(value)}, where an object belongs; fetch it again.")
    return value


def json_kind(value: object) -> str:
    """Says in words of which kind a value of a JSON file is."""
    return {list: "a list", str: "a text", dict: "an object", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


def optional_json(path: Path, limit: int = MAX_SMALL_BYTES) -> dict[str, Any]:
    """Reads the object in a JSON file; gives an empty one where there is no file. Raises as `read_json`."""
    with reading(path):
        return read_json(path, limit) if path.exists() else {}


def write_json(path: Path, value: object) -> None:
    """Writes `value` as JSON, its keys in their order and an indent of two spaces, as Hugging Face does."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_whole(path: Path, text: str) -> None:
    """Writes a file in UTF-8 whole or not at all: beside its place first, then under its name, so that an earlier file
    of that name stays until the new one is complete. A link stays a link. Raises OSError."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a new path beside `path`; what is written there takes its place at the end, with the permissions of an
    earlier file, and is removed on an error. Raises OSError."""
    place = Path(os.path.realpath(path))
    beside = place.with_name(PARTIAL.replace("*", secrets.token_hex(8)))
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, beside)
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def drop_partials(folder: Path) -> None:
    """Removes what `whole_file` had written in a folder when a process was killed; no other may be writing there now.
    Raises OSError."""
    for partial in folder.glob(PARTIAL):
        partial.unlink(missing_ok=True)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
RAISE_THE_LIMIT = "Let this process open more files: ulimit -n 1024."


@contextmanager
def disk_errors(
    what: str, advice: str = "Check its permissions, or name another {output}.", instead: str = "name another {output}"
) -> Iterator[None]:
    """Turns an error of the operating system into DiskFull or ElmError: `what` went wrong, with `advice` what to do.
    Where the disk is full, the advice is to free some space, or `instead` (which may be empty)."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ElmError):
            raise
        if error.errno in FULL:
            advice = f"Free some space, or {instead}." if instead else "Free some space."
            raise DiskFull(f"{what}: the disk is full.", advice) from error
        why = f"{what}: {error.strerror or error}."
        raise ElmError(why, RAISE_THE_LIMIT if error.errno in TOO_MANY_FILES else advice) from error


def reading(path: Path) -> AbstractContextManager[None]:
    """Turns an error of the operating system while `path` is read into an ElmError that names the path."""
    return disk_errors(f"{path} cannot be read", "Check its permissions.", instead="")


def can_name_a_file(path: Path) -> bool:
    """Whether the operating system takes this path at all: no part of it is too long, and none holds a NUL. Raises
    ElmError for a path that may not be looked at."""
    with reading(path):
        try:
            path.stat()
        except ValueError:  # a NUL
            return False
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            return error.errno != errno.ENAMETOOLONG
    return True


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return path if path.exists() else nearest_existing(path.parent)


def free_space(path: Path) -> int:
    """Bytes that are free on the disk where `path` is or would be."""
    return shutil.disk_usage(nearest_existing(path)).free


def check_room(what: object, advice: str, *needs: tuple[Path, int]) -> None:
    """Raises DiskFull, with `advice` what to do, where a disk lacks room for what `what` names and SPARE_BYTES beside
    it: `needs` are (place, bytes to write there), and places on one disk share its room."""
    places = [(nearest_existing(place), count) for place, count in needs if count > 0]
    for place, _ in places:
        device, free = place.stat().st_dev, shutil.disk_usage(place).free
        taken = sum(count for other, count in places if other.stat().st_dev == device)
        if (lacking := taken + SPARE_BYTES - free) > 0:
            spare, short = readable_size(SPARE_BYTES), readable_size(lacking)
            raise DiskFull(f"{what} needs {readable_size(taken)} of disk, and {spare} have to stay free: {place} has "
                           f"{readable_size(free)} free, {short} too little.", advice)  # fmt: skip


def readable_size(count: int) -> str:
    """A number of bytes for people to read, in the largest unit of which there is one."""
    for unit, nbytes in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= nbytes:
            digits = 0 if count >= 10 * nbytes else 2 if unit == "GB" else 1
            return f"{count / nbytes:.{digits}f} {unit}"
    return f"{count} byte{'s' * (count != 1)}"
