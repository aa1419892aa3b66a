"""The options of the form that an answer is to have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from elm_mlx.cli.kinds import NAME, StopText, Text
from elm_mlx.errors import ElmError
from elm_mlx.files import read_text

LONGEST = 1 << 20  # bytes of a file: the library says what is too long for a form
NAMES = ("schema", "regex", "choices", "grammar")


def read_schema(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The JSON schema that was given, as text or in a file. Raises BadParameter where there is no such file."""
    return value if value is None or value.lstrip().startswith("{") else text_of(value)


def read_grammar(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The grammar in the file that was given. Raises BadParameter where there is none."""
    return None if value is None else text_of(value)


def text_of(name: str) -> str:
    """The text of a file. Raises BadParameter where it cannot be read."""
    try:
        path = Path(name)
        if not path.exists():
            raise click.BadParameter(f"there is no file {name:.200}.")
        return read_text(path, LONGEST)
    except (ElmError, OSError, ValueError) as error:
        raise click.BadParameter(str(error)) from error


def texts(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    """The texts that were given, None where there are none."""
    return list(value) or None


SCHEMA = click.option(
    "--schema",
    type=NAME,
    metavar="FILE|JSON",
    callback=read_schema,
    help="Answer with JSON that fits this JSON schema: a file, or the schema itself.",
)
REGEX = click.option("--regex", type=Text(), help="Answer with a text that this regular expression matches as a whole.")
CHOICE = click.option(
    "--choice", "choices", type=StopText(), multiple=True, callback=texts, metavar="TEXT",
    help="Answer with this text. Repeatable: with one of these texts.",
)  # fmt: skip
GRAMMAR = click.option(
    "--grammar", type=NAME, metavar="FILE", callback=read_grammar, help="Answer with a text of this Lark grammar."
)


def check_form(**options: Any) -> None:
    """Raises InvalidRequest for a form that is none, that cannot be enforced, or for several of them."""
    if any(options.get(name) is not None for name in NAMES):
        from elm_mlx.api.structure import form_in  # here, as it brings MLX, which --help does without

        form_in(options)
