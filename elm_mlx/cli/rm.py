"""`elm-mlx rm`: removes elm-mlx's own copies of models."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from elm_mlx.cli.find import complete_names
from elm_mlx.cli.kinds import NAME
from elm_mlx.cli.messages import quietable, say
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.library import copies
from elm_mlx.library.names import parse_name

UNFINISHED = "what a stopped conversion left"


@click.command()
@click.argument("name", type=NAME, shell_complete=complete_names)
@click.option("--yes", is_flag=True, help="Do not ask.")
@quietable
def command(name: str, yes: bool) -> None:
    """Remove what elm-mlx made of NAME: its own copies alone, never the hub's cache or your directories."""
    from elm_mlx.convert import discard  # here, as --help needs no MLX

    for place, what in find_removable(name):
        if not yes and not sys.stdin.isatty():
            raise InvalidRequest("rm asks before it removes, and there is nobody to ask. Give --yes.")
        if not (yes or click.confirm(f"Remove {what} in {place}?", err=True)):
            continue
        if what == UNFINISHED:
            discard(place)
            say(f"Removed what was begun of {place}.")
            continue
        say(f"Removed {place}: {copies.remove_copy(place) / 1e6:,.1f} MB.")
        if what.endswith(copies.PUBLISHED):
            say(f"What was fetched stays in the hub's cache until `hf cache rm model/{what.partition(' ')[0]}`.")


def find_removable(name: str) -> list[tuple[Path, str]]:
    """elm-mlx's copies of a model, finished or not, as (path, what it is); of every commit unless one is named. Raises
    NotFound where there are none."""
    from elm_mlx.convert import unfinished

    named = parse_name(name)
    whole = [(copy.path, f"{copy.repository} {copy.variant}") for copy in copies.copies_of(named)]
    begun = [(target, UNFINISHED) for folder in copies.folders_of(named) for target in unfinished(folder)]
    if whole or begun:
        return whole + begun
    raise NotFound(f"elm-mlx keeps nothing of {name}; `elm-mlx list` shows what there is. What the hub's cache holds "
                   "is removed with `hf cache rm`.")  # fmt: skip
