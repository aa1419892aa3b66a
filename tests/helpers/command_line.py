"""A command line in the tests' process, which is enough where only its words count, or in a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest import mock

from elm_mlx import cli

PATIENCE_S = 120  # with a process that is started, on a busy machine
PROGRAM = [sys.executable, "-m", "elm_mlx"]


class Result(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


def run(*arguments: object, stdin: bytes | None = b"") -> Result:
    """Runs a command line in this process, with `stdin` piped to it (None: there is no stdin at all)."""
    typed = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    out, err = recorder(errors="replace"), recorder(errors="backslashreplace")  # as the program has them
    with mock.patch.object(sys, "stdin", typed), redirect_stdout(out), redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    done = Result(code, written(out), written(err))
    assert "Traceback" not in done.err
    return done


def recorder(errors: str) -> io.TextIOWrapper[io.BytesIO]:
    """A stream that keeps what is written to it."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors)


def written(stream: io.TextIOWrapper[io.BytesIO]) -> str:
    """What was written to a stream."""
    stream.flush()
    return stream.buffer.getvalue().decode()


def start(*arguments: object, program: Sequence[str] = PROGRAM, **settings: Any) -> subprocess.Popen[bytes]:
    """Starts a command line with empty stdin and the other streams as pipes, buffered as users have them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    usual: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": environment,
    }
    return subprocess.Popen([*program, *map(str, arguments)], **(usual | settings))


def ended(process: subprocess.Popen[bytes]) -> Result:
    """What a process did, once it has ended."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return Result(process.returncode, (out or b"").decode(), (err or b"").decode())


def answer(done: Result) -> dict[str, Any]:
    """The JSON object that is all of stdout, on one line."""
    assert done.code == 0, done.err
    assert done.out.endswith("}\n")
    assert done.out.count("\n") == 1
    value: dict[str, Any] = json.loads(done.out)
    return value
