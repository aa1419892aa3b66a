"""`elm-mlx completion`, and what a shell then completes."""

from __future__ import annotations

import os
import shutil

import pytest
from helpers.command_line import ended, run, start

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


def asking(line: str) -> dict[str, str]:
    """The environment in which bash asks what a line may go on with."""
    return {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_ELM_MLX_COMPLETE": "bash_complete"}


def completed(monkeypatch: pytest.MonkeyPatch, line: str) -> str:
    """What the program answers bash."""
    for name, value in asking(line).items():
        monkeypatch.setenv(name, value)
    done = run()
    assert (done.code, done.err) == (0, "")
    return done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_program(shell: str) -> None:
    done = run("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "_ELM_MLX_COMPLETE" in done.out


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, "elm-mlx gen") == "plain,generate\n"


@needs_bash
def test_bash_completes_a_command() -> None:
    assert ended(start(env=os.environ | asking("elm-mlx gen"))) == (0, "plain,generate\n", "")


@needs_bash
@pytest.mark.parametrize(("line", "said"), [
    ("elm-mlx chat --model openelm-4", "plain,openelm-450m plain,openelm-450m-instruct"),
    ("elm-mlx info ./mod", "dir,./mod"),
])  # fmt: skip
def test_bash_completes_a_models_name_and_else_a_directory(
    monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    assert completed(monkeypatch, line).split() == said.split()
