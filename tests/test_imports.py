"""Importing is quick and leaves no trace, generic names stay free, and a missing backend is a sentence.

Each script runs in a process of its own: from a neutral folder and isolated, so that what is installed counts
and not the checkout the tests lie in.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import elm_mlx
from elm_mlx.cli.group import COMMANDS

HEAVY = ("torch", "transformers", "mlx_lm")
NO_BACKEND = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            raise ImportError("libmlx.so: cannot open shared object file")

sys.meta_path.insert(0, Blocked())
"""
RUN = NO_BACKEND + "from elm_mlx.cli import run; sys.exit(run(sys.argv[1:]))"


def python(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script, isolated, in `folder`; its standard input is empty."""
    command = [sys.executable, "-I", "-c", script, *arguments]
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


def told(folder: Path, script: str) -> Any:
    """What a script prints as JSON, and nothing else, on standard output."""
    done = python(folder, script)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    loaded = told(tmp_path, "import elm_mlx, json, sys; print(json.dumps([*sys.modules]))")
    assert not {*HEAVY, "numpy", "tokenizers", "click", "mlx", "mlx.core", "elm_mlx.api"} & set(loaded)
    assert "elm_mlx" in loaded


def test_a_whole_generate_imports_nothing_heavy(tmp_path: Path) -> None:
    script = """
import io, json, sys
from elm_mlx.cli import run
text, sys.stdout = sys.stdout, io.StringIO()
code = run(["generate", "--max-tokens", "4", "--temperature", "1", "--top-k", "5", "--seed", "0", "--json"])
print(json.dumps([code, sys.stdout.getvalue(), [*sys.modules]]), file=text)
"""
    code, answer, loaded = told(tmp_path, script)
    assert code == 0
    assert len(json.loads(answer)["tokens"]) == 4
    assert not {*HEAVY, "rich", "huggingface_hub"} & set(loaded)
    assert "mlx.core" in loaded


def test_training_imports_nothing_heavy(tmp_path: Path) -> None:
    """Its door not even MLX, so that the command's help is quick."""
    script = """
import json, sys
import elm_mlx.train
door = [*sys.modules]
import elm_mlx.train.run
print(json.dumps([door, [*sys.modules]]))
"""
    door, loaded = told(tmp_path, script)
    assert not {*HEAVY, "mlx.core", "numpy"} & set(door)
    assert not {*HEAVY} & set(loaded)
    assert "mlx.optimizers" in loaded


def test_generic_names_stay_free(tmp_path: Path) -> None:
    names = ["convert", "benchmarks", "tests", "checkpoints", "conftest", "examples", "elm_mlx.convert"]
    script = f"import importlib.util as i, json; print(json.dumps([bool(i.find_spec(n)) for n in {names}]))"
    found = told(tmp_path, script)
    assert [name for name, there in zip(names, found, strict=True) if there] == ["elm_mlx.convert"]


def test_importing_leaves_no_trace(tmp_path: Path) -> None:
    script = """
import json, os, resource, signal, sys, threading
import mlx.core as mx, numpy  # theirs are theirs: NumPy starts the threads of its BLAS

def state():
    limits = {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith("RLIMIT_")}
    handlers = [str(signal.getsignal(n)) for n in signal.valid_signals()]
    native = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    device = mx.default_device()
    return [threading.active_count(), native, limits, handlers, str(device), str(mx.default_stream(device)),
            dict(os.environ), os.getcwd(), sys.path[:], mx.get_active_memory()]

before = state()
import elm_mlx.api, elm_mlx.convert, elm_mlx.cli.group
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""
    done = python(tmp_path, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_names_the_public_api_in_order() -> None:
    assert elm_mlx.__all__ == sorted(elm_mlx.__all__)
    assert set(elm_mlx.__all__) <= set(dir(elm_mlx))
    for name in elm_mlx.__all__:
        assert getattr(elm_mlx, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        elm_mlx.nonsense  # noqa: B018


def test_the_converter_and_the_errors_are_attributes_of_the_package(tmp_path: Path) -> None:
    script = "import elm_mlx; print(elm_mlx.convert.convert.__name__, elm_mlx.errors.BadCheckpoint.exit_code)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "convert 65\n", done.stderr


def test_without_a_backend_the_import_names_the_extra(tmp_path: Path) -> None:
    for line in ("from elm_mlx import load", "from elm_mlx.convert import convert", "import elm_mlx.api"):
        script = f"""{NO_BACKEND}
import json, elm_mlx.errors
try:
    {line}
except elm_mlx.errors.MissingBackend as error:
    print(json.dumps([str(error), isinstance(error, ImportError)]))
"""
        message, is_import_error = told(tmp_path, script)
        assert "elm-mlx[cpu]" in message
        assert "libmlx.so" in message
        assert is_import_error


@pytest.mark.parametrize("arguments", [["generate"], ["info"], ["convert", "somewhere"]], ids=lambda a: a[0])
def test_without_a_backend_a_command_says_what_to_install(tmp_path: Path, arguments: list[str]) -> None:
    done = python(tmp_path, RUN, *arguments)
    assert done.returncode == 69
    assert done.stdout == ""
    assert done.stderr.startswith("elm-mlx: MLX has no backend on this machine.")
    assert len(done.stderr.splitlines()) == 1
    assert "elm-mlx[cpu]" in done.stderr


def test_without_a_backend_help_and_version_still_work(tmp_path: Path) -> None:
    lines = [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)]
    script = f"""{NO_BACKEND}
import io, json
from contextlib import redirect_stderr, redirect_stdout
from elm_mlx.cli import run
said = []
for line in {lines}:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = run(line)
    said.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(said))
"""
    version, *helps = told(tmp_path, script)
    assert version == [0, f"elm-mlx {elm_mlx.__version__}\n", ""]
    for code, out, err in helps:
        assert (code, err) == (0, "")
        assert out.startswith("Usage: elm-mlx")
