"""The clients of a sidecar: the Python one runs, the Swift one compiles where there is a compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = ("Loading: ", "Context: 512 tokens", "Because of: length", "Ended early: Cancelled", "Messages: 3",
         "Given back: ['demo']")  # fmt: skip
TOOL = """
import sys; sys.path.insert(0, sys.argv[1])
from sidecar import Sidecar, SidecarError
with Sidecar((sys.executable, "-m", "elm_mlx", "serve", "--stdio")) as sidecar:
    asked = sidecar.begin("generate", prompt="Once", options={"banned_ids": [2], "window": 64})
    next(asked.texts())
    sidecar.process.kill()
    try:
        asked.result(30)
    except SidecarError as error:
        print(error.data["kind"])
"""


def test_the_python_client_loads_streams_cancels_and_gives_memory_back(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", EXAMPLES / "python_sidecar" / "story.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text for text in SHOWN if text not in done.stdout] == []


def test_the_python_client_tells_those_who_wait_that_the_sidecar_was_killed() -> None:
    command = [sys.executable, "-c", TOOL, EXAMPLES / "python_sidecar"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Gone\n", "")


def test_the_swift_client_compiles(tmp_path: Path) -> None:
    if not shutil.which("swift"):
        pytest.skip("no Swift compiler is here, so examples/swift_sidecar is not compiled")
    package = shutil.copytree(EXAMPLES / "swift_sidecar", tmp_path / "package")
    subprocess.run(["swift", "build"], cwd=package, check=True, timeout=600)
