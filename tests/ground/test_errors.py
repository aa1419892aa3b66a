"""Errors: a message and an advice, in arguments for a program and in flags for a person at a terminal."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

from elm_mlx import errors
from elm_mlx.cli.messages import with_flags
from elm_mlx.errors import ElmError, NotEnoughMemory, NotFound, TargetExists

ROOT = Path(__file__).parents[2]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ElmError)]
FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def test_an_advice_names_arguments_for_the_library_and_flags_for_the_command_line() -> None:
    error = TargetExists("out is there.", "Give {force=True}, {bits=4} and {max_shard_size}, or another {output}.")
    assert str(error) == "out is there. Give force=True, bits=4 and max_shard_size, or another output."
    assert with_flags(error) == "out is there. Give --force, --bits 4 and --max-shard-size, or another --output."


def test_braces_of_a_file_s_name_in_a_message_stay_as_they_are() -> None:
    error = NotFound("There is no {force} in /tmp/{bits=4}.", "Name another {output}.")
    assert str(error) == "There is no {force} in /tmp/{bits=4}. Name another output."
    assert with_flags(error) == "There is no {force} in /tmp/{bits=4}. Name another --output."


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_its_message_and_travels_between_processes(kind: type[ElmError]) -> None:
    error = kind("why", "Give {bits=4}.")
    assert (str(error), error.message, error.advice) == ("why Give bits=4.", "why", "Give {bits=4}.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))
    assert str(kind("why")) == "why"


def test_a_refusal_for_want_of_memory_keeps_its_numbers() -> None:
    again = pickle.loads(pickle.dumps(NotEnoughMemory("why", needed=5, available=3)))
    assert (again.needed, again.available) == (5, 3)


def test_the_library_advises_with_flags_in_command_lines_alone() -> None:
    """A text outside cli/ that names a flag does so between backquotes, as a part of a whole command."""
    for path in [*(ROOT / "elm_mlx").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        parts = path.relative_to(ROOT).parts
        if parts[1] in ("cli", "convert") and parts[0] == "elm_mlx":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                outside = re.sub(r"`[^`]*`", "", "".join(texts))
                outside = re.sub(r"pip install -e|\[first, last\]", "", outside)
                assert not FLAG.search(outside), (path.name, node.lineno, outside)
