"""What a person is told beside the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from elm_mlx import Stats


def say(message: str) -> None:
    """One line on stderr; where nobody can read it, the result matters more."""
    try:
        click.echo(message, err=True)
    except OSError:
        return


def summary(stats: Stats) -> str:
    """The figures that a person at a terminal wants to see after the text."""
    rate = f", then {stats.decode_tokens_per_s:,.1f} tokens/s" if stats.decode_tokens_per_s else ""
    return (
        f"{stats.prompt_tokens} + {stats.generated_tokens} tokens: the first after "
        f"{stats.time_to_first_token_s:.2f} s{rate}; {stats.peak_memory_bytes / 1e6:,.0f} MB at most"
    )
