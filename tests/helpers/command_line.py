"""A command line run in the tests' own process: as good as a process of its own where only the words count."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest import mock

from elm_mlx import cli


class Result(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


def run(*arguments: object, stdin: bytes | None = b"") -> Result:
    """Runs a command line with `stdin` piped to it (None: there is no stdin at all)."""
    typed = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    out, err = written(errors="replace"), written(errors="backslashreplace")  # as the program has them
    with mock.patch.object(sys, "stdin", typed), redirect_stdout(out), redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    result = Result(code, text_of(out), text_of(err))
    assert "Traceback" not in result.err
    return result


def written(errors: str) -> io.TextIOWrapper[io.BytesIO]:
    """A stream that keeps what is written to it."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors)


def text_of(stream: io.TextIOWrapper[io.BytesIO]) -> str:
    """What was written to a stream."""
    stream.flush()
    return stream.buffer.getvalue().decode()


def answer(result: Result) -> dict[str, Any]:
    """The JSON object that is all of stdout, on one line."""
    assert result.code == 0, result.err
    assert result.out.endswith("}\n")
    assert result.out.count("\n") == 1
    value: dict[str, Any] = json.loads(result.out)
    return value
