"""Data and tiny models for tests of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import checkpoints

TEXTS = ["Once there was a fox.", "A hen sat on a wall.", "The frog sang.", "It was cold, and so the bear slept.",
         "Mia ran home."]  # fmt: skip
PAIRS = [{"prompt": "The fox", "chosen": " ran home.", "rejected": " sat."},
         {"prompt": "A hen", "chosen": " sang to me.", "rejected": " ate the whole wall, and so it slept."},
         {"prompt": "It was", "chosen": " warm.", "rejected": " cold."}]  # fmt: skip


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as lines of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_texts(path: Path, texts: Sequence[str] = TEXTS) -> None:
    """Writes rows of text."""
    write_rows(path, [{"text": text} for text in texts])


def tiny(folder: Path, name: str = "openelm", **changes: Any) -> Path:
    """A tiny model of random floats, with a tokenizer."""
    return checkpoints.write(folder, checkpoints.CONFIGS[name] | changes)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
