"""The losses of a training as lines of JSON, each written when it is known. Nothing in them tells a time, so a resumed
training writes the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from elm_mlx.files import disk_errors, reading, write_whole

LOSSES = "losses.jsonl"
Record = dict[str, Any]


class History:
    """The lines of a training: {"step", "loss", "targets", "learning_rate"} after each step, and {"step", "valid_loss"}
    after each validation; where pairs are learned, also {"accuracy", "margin"} and {"valid_accuracy", "valid_margin"}.
    Losses are means over targets, in nats."""

    def __init__(self, directory: Path) -> None:
        self._path, self.records = directory / LOSSES, list[Record]()

    def begin(self, step: int) -> None:
        """Keeps the lines of the first `step` steps, and drops what was written after them. Raises ElmError."""
        with disk_errors(f"{self._path} cannot be written"):
            self.records = [one for one in read_records(self._path) if one["step"] <= step] if step else []
            write_whole(self._path, "".join(map(line, self.records)))

    def add(self, record: Record) -> None:
        """Appends a line. Raises DiskFull, ElmError."""
        with disk_errors(f"{self._path} cannot be written"), self._path.open("a", encoding="utf-8") as file:
            file.write(line(record))
        self.records.append(record)

    def sync(self) -> None:
        """Waits until all lines are on the disk. Raises ElmError."""
        with disk_errors(f"{self._path} cannot be written"), self._path.open("rb") as file:
            os.fsync(file.fileno())


def line(record: Record) -> str:
    """A record as it is written."""
    return json.dumps(record) + "\n"


def read_records(path: Path) -> list[Record]:
    """The whole lines of a file of losses, up to the first that is none: a training that was killed may leave a part of
    one at the end."""
    records: list[Record] = []
    if path.exists():
        with reading(path):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(text)
                    record["step"] + 0
                except (ValueError, TypeError, KeyError):
                    break
                records.append(record)
    return records
