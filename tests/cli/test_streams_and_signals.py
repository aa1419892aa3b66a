"""The program as a process: interrupted, terminated, left by its reader, its streams closed, full or narrow."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_line import PROGRAM, Result, ended, run, start

import elm_mlx
from elm_mlx.cli.blas import signals_held_back


def said(process: subprocess.Popen[bytes]) -> Result:
    """What a process did and said, without its notice of a slow machine."""
    done = ended(process)
    lines = [line for line in done.err.splitlines() if "MLX runs on its CPU backend" not in line]
    return done._replace(err="\n".join(lines))


def test_python_m_runs_the_program() -> None:
    assert ended(start("--version")) == (0, f"elm-mlx {elm_mlx.__version__}\n", "")


# Signals


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(elm_mlx, "load", interrupted)
    assert run("generate") == (130, "", "")


def test_a_signal_amid_the_import_of_mlx_comes_after_it() -> None:
    """Inside, MLX would lose what a handler raises, or call it an ImportError."""
    whole = []

    def imports() -> None:
        with signals_held_back():
            signal.raise_signal(signal.SIGTERM)
            whole.append("mlx")

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit, match="143"):
            imports()
        with pytest.raises(SystemExit, match="143"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert whole


def test_ctrl_c_keeps_what_was_written(endless: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 50_000]
    child = start(*command)
    assert child.stdout
    first = os.read(child.stdout.fileno(), 2**16).decode()
    assert len(first) < io.DEFAULT_BUFFER_SIZE  # it came as it was made
    child.send_signal(signal.SIGINT)
    done = said(child)
    assert (done.code, done.err) == (130, "")
    expected = run(*command[:-1], 40).out
    assert expected.startswith((first + done.out)[:20])


@pytest.mark.parametrize(("ending", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_termination_tidies_up_a_conversion(openelm: Path, tmp_path: Path, ending: str, code: int) -> None:
    """Between two tensors: nothing under the final name, no folder left beside it."""
    script = (
        f"import os, signal; signal.signal(signal.{ending}, signal.SIG_DFL)\n"  # nohup, or a shell, may ignore it
        "from elm_mlx.convert.output import pipeline; right = pipeline.convert_rows\n"
        "def wrong(name, *rest):\n"
        f"    if 'layers.2' in name: os.kill(os.getpid(), signal.{ending})\n"
        "    return right(name, *rest)\n"
        "pipeline.convert_rows = wrong\n"
        "from elm_mlx.cli import main; main()"
    )
    program = [sys.executable, "-c", script]
    done = ended(start("convert", openelm, "--output", tmp_path / "out", program=program))
    assert done == (code, "", "")
    assert list(tmp_path.iterdir()) == []


# Streams


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_leaves_ends_it_quietly(endless: Path, form: list[str]) -> None:
    reader, writer = os.pipe()
    if form:  # all of it comes at the end, when nobody is there any more
        os.close(reader)
    child = start("generate", "--model", endless, "--max-tokens", 3 if form else 50_000, *form, stdout=writer)
    os.close(writer)
    if not form:
        os.read(reader, 1)
        os.close(reader)
    assert said(child) == (141, "", "")


def test_closed_streams_are_not_taken_for_files(openelm: Path, tmp_path: Path) -> None:
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PROGRAM]
    assert ended(start("convert", openelm, "--output", tmp_path / "out", program=closed)).code == 0
    assert ended(start("generate", "--model", tmp_path / "out", "--max-tokens", 3, program=closed)).code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_behind_stdout_is_a_sentence(endless: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = said(start("generate", "--model", endless, "--max-tokens", 3, stdout=full))
    assert (done.code, done.err) == (74, "elm-mlx: The output: No space left on device. Free some space.")


def test_a_narrow_encoding_loses_characters_and_nothing_else(endless: Path) -> None:
    command = ["generate", "--model", endless, "--prompt", "Hi", "--max-tokens", 40]
    text = run(*command).out
    assert not text.isascii()
    narrow = said(start(*command, env=os.environ | {"PYTHONIOENCODING": "ascii"}))
    assert narrow == (0, text.encode("ascii", "replace").decode(), "")
