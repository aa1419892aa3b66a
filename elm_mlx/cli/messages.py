"""Messages to a person, on stderr beside the result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from elm_mlx.errors import ARGUMENT, ElmError

if TYPE_CHECKING:
    from rich.console import Console


QUIET = "elm_mlx.quiet"  # in click's context
REPLACEMENT = "\ufffd"
bar_consoles: list[Console] = []  # of the progress bars shown now, above which messages are printed

quietable = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _, value: context.meta.update({QUIET: value}),
    help="Say nothing but the result and errors.",
)


def is_quiet() -> bool:
    """Whether this command was given --quiet."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def say(message: str) -> None:
    """Prints one line on stderr about what is being done, unless the command was given --quiet."""
    if not is_quiet():
        tell(message)


def tell(message: str) -> None:
    """Prints one line on stderr even with --quiet: an error, or what was asked for. Where stderr cannot be written, the
    line is dropped, as the result matters more."""
    try:
        if bar_consoles:
            bar_consoles[-1].print(printable(message), markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(printable(message), err=True)
    except OSError:
        return


def printable(message: str) -> str:
    """The message without control characters, so that no text from a file or a hub moves the cursor."""
    return "".join(c if c.isprintable() or c in "\n\t" else REPLACEMENT for c in message)


def one_line(text: str) -> str:
    """The text as `printable` gives it and without newlines, for a row of a table."""
    return printable(text).replace("\n", REPLACEMENT)


# Arguments whose flags have other names.
FLAGS = {"prompts": "-p", "generations": "-n", "depths": "-d", "models": "--model", "shapes": "--random"}
FLAGS |= {"aliases": "--alias", "adapters": "--adapter", "allowed_origins": "--allow-origin"}
FLAGS |= {"allowed_hosts": "--allowed-host", "keep_alive_s": "--keep-alive"}
FLAGS |= {"as_json": "--json", "names_only": "--names", "banned_ids": "--ban", "choices": "--choice"}


def with_flags(error: ElmError) -> str:
    """The text of an error, each argument in its advice as a flag: {bits=4} is --bits 4, {force=True} is --force."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        option = FLAGS.get(name) or f"--{name.replace('_', '-')}"
        return f"{option} {value}" if value not in (None, "True") else option

    return f"{error.message} {ARGUMENT.sub(flag, error.advice)}".strip()
