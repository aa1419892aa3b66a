"""The examples run as they are written, and show what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "threads.py": ("Once upon a time ", "The old sailor ", "In a quarter of a second: "),
    "session.py": ("You: How does it begin?", "Read again: ", "Messages: 9"),
    "asyncio_cancel.py": ("Once upon a time", "In a small village", "A whole story in 10 ms: None"),
    "batch.py": ("little fox ", "little duck ", "The first three to end:", " tokens"),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.parametrize(
    "name", ["asyncio_cancel.py", *(pytest.param(name, marks=pytest.mark.slow) for name in ("threads.py", "batch.py"))]
)
def test_an_example_runs_and_shows_what_it_says(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text for text in SHOWN[name] if text not in done.stdout] == []
