"""What a person is told beside the result."""

from __future__ import annotations

import click


def say(message: str) -> None:
    """One line on stderr; where nobody can read it, the result matters more."""
    try:
        click.echo(message, err=True)
    except OSError:
        return
