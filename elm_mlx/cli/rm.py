"""`elm-mlx rm`: our own copies of models, removed."""

from __future__ import annotations

import sys

import click

from elm_mlx.cli.messages import quietable, say
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.store import library, registry


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@quietable
def command(name: str, yes: bool) -> None:
    """Remove what elm-mlx made of NAME: its own copies alone, never the hub's cache or your directories."""
    for copy in of_name(name):
        if not yes and not sys.stdin.isatty():
            raise InvalidRequest("rm asks before it removes, and there is nobody to ask. Give --yes.")
        if yes or click.confirm(f"Remove {copy.repository} {copy.variant} in {copy.path}?", err=True):
            say(f"Removed {copy.path}: {library.remove(copy.path) / 1e6:,.1f} MB.")
            if copy.variant == library.PUBLISHED:
                say(f"What was fetched stays in the hub's cache until `hf cache rm model/{copy.repository}`.")


def of_name(name: str) -> list[library.Copy]:
    """Our copies of a model, of every commit unless one is named. Raises NotFound where there are none."""
    if found := library.copies_of(registry.parse(name)):
        return found
    raise NotFound(f"elm-mlx keeps nothing of {name}; `elm-mlx list` shows what there is. What the hub's cache holds "
                   "is removed with `hf cache rm`.")  # fmt: skip
