"""The answers of a job in a file: what is there already, and appending to it. A job that was killed at any byte goes on
where it was: a line counts once its newline is written, and what stands after the last newline is cut off."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elm_mlx.arguments import named_path
from elm_mlx.errors import ElmError, InvalidRequest, TargetExists
from elm_mlx.files import disk_errors
from elm_mlx.jobs.entry import key_of_result
from elm_mlx.jobs.json_line import parse_line, read_line

BEGINNING = b'{"id": '  # of every line that a job writes


class Printed:
    """Answers that go to standard output, where nothing is found again; used as a `Results` is."""

    def __init__(self) -> None:
        self.failed: dict[str, bool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def refuse_others(self, keys: Collection[str], retry_errors: bool) -> None:
        """Does nothing, as nothing is there."""

    def begin(self, retry_errors: bool) -> None:
        """Does nothing, as nothing is there."""

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Prints a line. Raises OSError."""
        print(json.dumps(record), flush=True)
        self.failed[key] = record["error"] is not None


class Results:
    """Answers in a file that this process alone appends to, from `with` on. `failed` says of every key that has a line
    whether the line holds an error.

    To open one changes no byte of it; `begin` does. Opening raises TargetExists for a file that holds anything else,
    InvalidRequest for one that another job has open, ElmError for one that cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self.name, self.failed = name, dict[str, bool]()
        self._path = Path(os.path.realpath(named_path("output", name)))
        self._is_new = False
        self._size = 0  # bytes of the lines that count
        self._open: list[int] = []  # descriptors; the last is the one that is written

    def __enter__(self) -> Self:
        try:
            with self._disk_errors():
                self._is_new = not self._path.exists()
                self._open.append(open_locked(self._path, self.name))
                self._read()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind and self._is_new and not self._size:
            with suppress(OSError):
                self._path.unlink()  # nothing came of it
        self._close()

    def refuse_others(self, keys: Collection[str], retry_errors: bool) -> None:
        """Raises TargetExists where answers would stay here that belong to none of the `keys`: then this is the file of
        other requests."""
        others = [key for key, failed in self.failed.items() if key not in keys and not (failed and retry_errors)]
        if others:
            raise TargetExists(f"{self.name} has answers to other requests: {len(others):,}, the first with the id "
                               f"{others[0]:.80}.", "Name another {output}.")  # fmt: skip

    def begin(self, retry_errors: bool) -> None:
        """Cuts off what a killed job left of a line and, with `retry_errors`, takes out the lines that hold errors; the
        file is then written anew beside its place, so that it is whole at any time. Raises ElmError, DiskFull."""
        with self._disk_errors():
            if retry_errors and any(self.failed.values()):
                self._drop_failed()
            os.ftruncate(self._open[-1], self._size)

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Appends a line. Raises DiskFull, ElmError; what was written of the line is then taken away again."""
        line = json.dumps(record).encode() + b"\n"
        try:
            with self._disk_errors():
                write_at(self._open[-1], line, self._size)
        except ElmError:
            with suppress(OSError):
                os.ftruncate(self._open[-1], self._size)
            raise
        self._size += len(line)
        self.failed[key] = record["error"] is not None

    def _disk_errors(self) -> AbstractContextManager[None]:
        advice = "Check that it is yours, or name another {output}."
        return disk_errors(f"{self.name} cannot be written", advice, "name another {output}")

    def _read(self) -> None:
        """Reads which keys have lines. Raises TargetExists for a line that no job wrote, and for two of one key."""
        for number, line in enumerate(self._lines(), 1):
            is_whole = line.endswith(b"\n")
            if not is_whole and is_torn(line):
                return
            key, failed = self._judge(number, line)
            if is_whole:
                self.failed[key] = failed
                self._size += len(line)

    def _judge(self, number: int, line: bytes) -> tuple[str, bool]:
        """(the key, whether the line holds an error)."""
        with suppress(InvalidRequest):
            key, failed = key_of_result(line)
            if key not in self.failed:
                return key, failed
        raise TargetExists(f"{self.name} is there already, and line {number} was not written by a job.",
                           "Name another {output}.")  # fmt: skip

    def _lines(self) -> Iterator[bytes]:
        """The lines that are in the file now; "?" for one that is longer than any that a job writes."""
        with os.fdopen(self._open[-1], "rb", closefd=False) as file:
            file.seek(0)
            while (line := read_line(file)) != b"":
                yield b"?" if line is None else line

    def _drop_failed(self) -> None:
        """Replaces the file by one without the lines that hold errors. The old one stays open, and so locked."""
        beside = self._path.with_name(f".{self._path.name}.elm-mlx-retry")  # always the same, so one at most is left
        new, size = open_locked(beside, self.name), 0
        try:
            os.ftruncate(new, 0)
            for line in self._lines():
                if line.endswith(b"\n") and not self.failed[key_of_result(line)[0]]:
                    size += write_at(new, line, size)
            os.fsync(new)
            shutil.copymode(self._path, beside)
            beside.replace(self._path)
        except BaseException:
            beside.unlink(missing_ok=True)
            os.close(new)
            raise
        self._open.append(new)
        self._size = size
        self.failed = {key: False for key, failed in self.failed.items() if not failed}

    def _close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()


def open_locked(path: Path, name: str) -> int:
    """Opens a file to read and write, made where it is not there, which stays locked until it is closed. Raises
    InvalidRequest for a folder, a pipe or a device, and where another process has locked it; OSError."""
    if path.exists() and not path.is_file():
        raise InvalidRequest(f"{name} is a folder, a pipe or a device.", "Name a file as {output}, or - for stdout.")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    if not (try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat())):
        os.close(descriptor)  # the lock of a file that was replaced meanwhile is worth nothing
        raise InvalidRequest(f"Another job writes to {name} now.", "Let it end, or name another {output}.")
    return descriptor


def try_lock(descriptor: int) -> bool:
    """Locks an open file; returns whether no other process has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)  # some network disks have no locks at all
    return True


def write_at(descriptor: int, line: bytes, place: int) -> int:
    """Writes a line from the byte `place` on; returns its length. Raises OSError."""
    written = 0
    while written < len(line):
        written += os.pwrite(descriptor, line[written:], place + written)
    return written


def is_torn(line: bytes) -> bool:
    """Whether a file's last line, which lacks its newline, is the beginning of one that a job writes, or the zeros that
    some disks leave after a power failure. A whole object of another kind is none."""
    if not line.strip(b"\0"):
        return True
    if line[: len(BEGINNING)] != BEGINNING[: len(line)]:
        return False
    try:
        parse_line(line, "The line")
    except InvalidRequest:
        return True
    return False  # whole, but for its newline
