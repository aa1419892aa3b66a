"""Advised commands, and the tests that follow them: a test marked `follows("elm-mlx pull *")` has to run that command.

In a mark, `*` stands for what the message fills in, and a word in capitals for what the person does.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

TESTS = Path(__file__).parents[1]
RAN: list[list[str]] = []  # the command lines of the test that runs


def ran(*words: object) -> None:
    """Notes a command line that the test runs."""
    RAN.append([str(word) for word in words])


def fits(advised: str, words: list[str]) -> bool:
    """Whether a command line has the words of an advised one, in their order; others may stand between them."""
    left = iter(words)
    return all(any(part.isupper() or fnmatchcase(word, part) for word in left) for part in shlex.split(advised))


def marks() -> Iterator[str]:
    """Every command that some test says it follows."""
    for file in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "follows":
                yield from (ast.literal_eval(argument) for argument in node.args)
