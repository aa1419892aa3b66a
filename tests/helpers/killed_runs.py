"""A conversion that is killed by SIGKILL at a line of its code, so that every moment can be had, and the same one
again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Converts, and prints the function of every line of `modules` that it comes by, or dies at the line of that number.
DRIVER = """
import json, os, signal, sys
from elm_mlx.convert import convert
{before}
source, target, options, last = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
modules, passed = {modules!r}, []
def trace(frame, event, _):
    name = frame.f_code.co_qualname
    if frame.f_globals["__name__"] not in modules or not passed and name != "write_atomically":
        return None
    if frame.f_globals["__name__"] == "elm_mlx.store.weights" and not name.startswith("Writer"):
        return None
    if event == "line":
        passed.append(name)
        if len(passed) == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
convert(source, target, **options)
print(json.dumps(passed))
"""


class Driver(NamedTuple):
    """Runs conversions with these options. Lines count in these modules of the converter and where weights are
    written; `before` is what a run does first."""

    options: dict[str, Any]
    modules: Sequence[str]
    before: str = ""

    def run(self, source: Path, target: Path, last: int = 0) -> list[str]:
        """The functions of all lines, or nothing from a run that was killed at the `last`."""
        modules = ["elm_mlx.store.weights", *(f"elm_mlx.convert{module}" for module in self.modules)]
        script = DRIVER.format(before=self.before, modules=modules)
        command = [sys.executable, "-c", script, str(source), str(target), json.dumps(self.options), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == (-9 if last else 0), done.stderr
        return json.loads(done.stdout or "[]")


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file in a folder, by name."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def names(folder: Path) -> list[str]:
    """The names of what lies in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())
