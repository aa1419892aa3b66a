"""What the program's messages advise, read from its source: commands, arguments, flags, variables, extras.

A message is any text that a person may get: every string in elm_mlx/ and convert/ that has a blank in it and is no
docstring. Its holes (`{name}` of an f-string) are written as HOLE.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from helpers.documents.page import ROOT

from elm_mlx import errors

HOLE = "\N{WHITE SQUARE}"
ADVISED = re.compile(r"`((?:elm-mlx|pip install|apt|hf|python|mlx_lm)[ .][^`]*)`")
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, BaseException)}
ARGUMENT = re.compile(r"\{(\w+)(?:=([^{}]*))?\}")


class Message(NamedTuple):
    """A text that a person may get, and the place of its line."""

    text: str
    file: str
    line: int
    of_error: bool = False

    @property
    def place(self) -> str:
        """Where it stands, for a failing test."""
        return f"{self.file}:{self.line}"


@cache
def messages() -> list[Message]:
    """All texts of the program."""
    files = [*(ROOT / "elm_mlx").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]
    return [message for file in files if "elm_mlx/convert/" not in str(file) for message in read(file)]


def read(file: Path) -> Iterator[Message]:
    """The texts of a module: strings with a blank in them that are no docstrings, joined as Python joins them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    made = {id(part) for node in ast.walk(tree) if is_error(node) for part in ast.walk(node)}
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in told:
            if isinstance(node, ast.Constant) and id(node) in within:
                continue
            if " " in (text := text_of(node)):
                yield Message(text, str(file.relative_to(ROOT)), node.lineno, id(node) in made)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "command_line":
            yield Message(f"`{' '.join(map(word_of, node.args))}`", str(file.relative_to(ROOT)), node.lineno)


def is_error(node: ast.AST) -> bool:
    """Whether an error is made there: a call of one of the classes in elm_mlx.errors."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS


def text_of(node: ast.expr) -> str:
    """A string's text with its holes."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(text_of(part) if isinstance(part, ast.Constant) else HOLE for part in parts)


def word_of(node: ast.expr) -> str:
    """A word of a command that is put together by `command_line`; words that may be there or not are left out."""
    return "" if isinstance(node, ast.Starred) else shlex.quote(text_of(node)) if text_of(node) else HOLE


def commands() -> dict[str, Message]:
    """Every command that a message advises, with one place of it."""
    return {command: message for message in messages() for command in ADVISED.findall(message.text)}


def arguments() -> Iterator[tuple[str, str, Message]]:
    """Every argument in braces that an error advises: its name, its value or "", and the message."""
    for message in messages():
        if message.of_error:
            yield from ((name, value, message) for name, value in ARGUMENT.findall(message.text))
