"""Answers of a model that a file keeps, so that an evaluation that was killed goes on where it was.

Its first line says what all answers were computed with; each other line is one answer. A line counts once its newline
is written, and what stands after the last newline is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from elm_mlx.errors import InvalidRequest, TargetExists
from elm_mlx.files import disk_errors
from elm_mlx.jobs.json_line import parse_line, read_line
from elm_mlx.jobs.results import open_locked, write_at

FORM = "elm-mlx answers 1"
BEGINNING = json.dumps({"form": FORM})[:-1].encode()  # of every such file


def key_of(kind: str, *parts: Any) -> str:
    """A name for what is asked: SHA-256 of its JSON."""
    return hashlib.sha256(json.dumps([kind, *parts], sort_keys=True).encode()).hexdigest()


class Remembered:
    """Answers by key, in a file that this process alone appends to from `with` on; without a `path` in memory alone.

    Opening raises TargetExists for a file with anything else, or with answers of another model or of other settings;
    InvalidRequest for one that another process has open; ElmError, DiskFull.
    """

    def __init__(self, path: Path | None, made_with: Mapping[str, Any]) -> None:
        self.path, self.made_with = path, dict(made_with)
        self.answers: dict[str, Any] = {}
        self._open = -1
        self._size = 0

    def __enter__(self) -> Self:
        if self.path:
            with self._disk_errors():
                try:
                    self._open = open_locked(Path(os.path.realpath(self.path)), str(self.path))
                except InvalidRequest as error:
                    raise InvalidRequest(error.message, "Name another file as {answers}.") from error
                try:
                    self._read(self._open)
                except BaseException:
                    self._close()
                    raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def add(self, key: str, answer: Any) -> None:
        """Keeps an answer. Raises DiskFull, ElmError."""
        self.answers[key] = answer
        if self.path:
            self._append({"key": key, "answer": answer})

    def _read(self, descriptor: int) -> None:
        """Reads the answers, and makes the file end after the last whole line."""
        number = 0
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            while (line := read_line(file)) and line.endswith(b"\n"):
                number += 1
                self._take(number, line)
                self._size += len(line)
            if line is None or (not number and line[: len(BEGINNING)] != BEGINNING[: len(line)]):
                raise self._foreign(number + 1)
        os.ftruncate(descriptor, self._size)
        if not number:
            self._append({"form": FORM, "made_with": self.made_with})

    def _take(self, number: int, line: bytes) -> None:
        try:
            record = parse_line(line, "A line")
        except InvalidRequest:
            record = {}
        if number == 1 and record.get("form") == FORM:
            self._check(record.get("made_with"))
        elif number > 1 and isinstance(key := record.get("key"), str) and is_answer(record.get("answer")):
            self.answers[key] = record["answer"]
        else:
            raise self._foreign(number)

    def _check(self, found: Any) -> None:
        """Raises TargetExists where the answers were computed with something else."""
        found = found if isinstance(found, dict) else {}
        differ = [name for name in {**found, **self.made_with} if found.get(name) != self.made_with.get(name)]
        if differ:
            raise TargetExists(f"{self.path} holds answers that were computed with another {' and '.join(differ)}.",
                               "Name another file as {answers}.")  # fmt: skip

    def _foreign(self, number: int) -> TargetExists:
        return TargetExists(f"{self.path} is there already, and line {number} was not written by an evaluation.",
                            "Name another file as {answers}.")  # fmt: skip

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        with self._disk_errors():
            write_at(self._open, line, self._size)
        self._size += len(line)

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(f"{self.path} cannot be written", "Check that it is yours, or name another {answers}.",
                           "name another {answers}")  # fmt: skip

    def _close(self) -> None:
        if self._open >= 0:
            os.close(self._open)
            self._open = -1


def is_answer(value: Any) -> bool:
    """Whether a value may be an answer: [log-probability, whether it is greedy], a log-probability, or a text."""
    if isinstance(value, list):
        return len(value) == 2 and is_number(value[0]) and isinstance(value[1], bool)
    return is_number(value) or isinstance(value, str)


def is_number(value: Any) -> bool:
    """Whether a value is a number, as JSON has them."""
    return isinstance(value, int | float) and not isinstance(value, bool)
