"""What a person types in a conversation, an entry at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

from elm_mlx.cli.messages import tell
from elm_mlx.errors import InvalidRequest

PROMPT, MORE = "> ", ". "
BLOCK = '"""'  # begins and ends a text of several lines


def read_entries() -> Iterator[str]:
    """Reads what is typed, an entry at a time, until the input ends; with line editing and history at a terminal."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # not built into every Python
            import readline  # noqa: F401
    while True:
        try:
            yield read_entry()
        except EOFError:
            if sys.stdin.isatty():
                tell("")  # ends the line, so that the shell's prompt begins one
            return
        except KeyboardInterrupt:
            end_line()  # Ctrl-C at the prompt drops the line
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                "What is typed is not UTF-8 text. Convert it first, for example with iconv."
            ) from error


def end_line() -> None:
    """Ends the line on which the terminal shows ^C. Another Ctrl-C meanwhile, of someone who presses it twice, means no
    more than the first: it must not end the conversation."""
    with suppress(KeyboardInterrupt):
        tell("")


def read_entry() -> str:
    """Reads one entry: a line, lines joined by backslashes, or what stands between triple quotes."""
    shown = sys.stdin.isatty() and sys.stdout.isatty()
    text = input(PROMPT if shown else "")
    with suppress(EOFError):  # the end of the input ends an unfinished entry, too
        if text.lstrip().startswith(BLOCK):
            text = text.lstrip().removeprefix(BLOCK)
            while not text.rstrip().endswith(BLOCK):
                text += "\n" + input(MORE if shown else "")
            return text.rstrip().removesuffix(BLOCK)
        while text.endswith("\\"):
            text = text[:-1] + "\n"
            text += input(MORE if shown else "")
    return text
