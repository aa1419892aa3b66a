"""Commands that are printed: a shell reads them as they were meant, whatever a name or a path holds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from elm_mlx.cli.group import COMMANDS
from elm_mlx.shell import command_line

ROOT = Path(__file__).parents[2]
HOSTILE = ["$(id)", "`id`", "a b", "it's", '"', "\\", "a\nb", "\x1b[2J\x07\\n", "~", "*", "", "é", "\u202e", "&;|<>",
           os.fsdecode(b"\xff7'\xfe")]  # fmt: skip
WITH_A_PLACE = re.compile(rf"(elm-mlx ({'|'.join(COMMANDS)})|hf cache) [^`]*$")


def test_a_shell_reads_back_every_word() -> None:
    command = command_line("printf", r"%s\0", *HOSTILE)
    done = subprocess.run(["bash", "-c", os.fsencode(command)], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in HOSTILE]
    assert command.isprintable()


def test_plain_words_stay_as_they_are() -> None:
    command = ["elm-mlx", "pull", "apple/OpenELM-450M@main", "--bits", 4]
    assert command_line(*command) == "elm-mlx pull apple/OpenELM-450M@main --bits 4"


def unquoted(text: ast.JoinedStr) -> Iterator[int]:
    """The lines on which a formatted text puts a value into a command by itself."""
    for before, value in zip(text.values, text.values[1:], strict=False):
        if isinstance(before, ast.Constant) and WITH_A_PLACE.search(str(before.value)):
            yield value.lineno


@pytest.mark.parametrize("folder", ["elm_mlx", "convert"])
def test_no_text_puts_a_name_into_a_command_but_by_command_line(folder: str) -> None:
    assert list(unquoted(ast.parse('f"run `elm-mlx pull {name}`"').body[0].value)) == [1]  # type: ignore[attr-defined]
    found = [
        (path.relative_to(ROOT).as_posix(), line)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr)
        for line in unquoted(node)
    ]
    assert not found
