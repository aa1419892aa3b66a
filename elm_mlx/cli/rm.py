"""`elm-mlx rm`: removes elm-mlx's own copies of models."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from elm_mlx.cli.find import complete_names
from elm_mlx.cli.kinds import NAME
from elm_mlx.cli.messages import one_line, quietable, say
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.library import copies
from elm_mlx.library.hub_cache import folder_of
from elm_mlx.library.names import parse_name
from elm_mlx.shell import command_line

UNFINISHED = "what a stopped conversion left"


@click.command()
@click.argument("name", type=NAME, shell_complete=complete_names)
@click.option("--yes", is_flag=True, help="Do not ask.")
@quietable
def command(name: str, yes: bool) -> None:
    """Remove elm-mlx's own copies of a model, never the hub's cache or your directories."""
    from elm_mlx.convert import discard  # here, as --help needs no MLX

    removed: list[str] = []
    for place, repository, what in find_removable(name):
        if not yes and not sys.stdin.isatty():
            raise InvalidRequest("rm asks before it removes, and standard input is not a terminal. Give --yes.")
        if not (yes or click.confirm(one_line(f"Remove {what} in {place}?"), err=True)):
            continue
        if what == UNFINISHED:
            discard(place)
            say(f"Removed {what} in {place}.")
        else:
            say(f"Removed {place}: {copies.remove_copy(place) / 1e6:,.1f} MB.")
        removed.append(repository)
    for repository in dict.fromkeys(removed):
        if cached := hint_at_cache(repository):
            say(cached)


def find_removable(name: str) -> list[tuple[Path, str, str]]:
    """elm-mlx's copies of a model, finished or not, as (path, repository, what it is); of every commit unless one is
    named. Raises NotFound where there are none."""
    from elm_mlx.convert import unfinished

    named = parse_name(name)
    whole = [(copy.path, copy.repository, f"{copy.repository} {copy.variant}") for copy in copies.copies_of(named)]
    begun = [(target, copies.repository_in(folder) or name, UNFINISHED)
             for folder in copies.folders_of(named) for target in unfinished(folder)]  # fmt: skip
    if whole or begun:
        return whole + begun
    cached = " ".join(filter(None, map(hint_at_cache, copies.repositories_of(named))))
    raise NotFound(f"There is no copy of {name} to remove; `elm-mlx list` shows all copies.{cached and f' {cached}'}")


def hint_at_cache(repository: str) -> str:
    """A sentence on how to remove what the hub's cache holds of a repository; empty where it holds nothing."""
    if not folder_of(repository).is_dir():
        return ""
    command = command_line("hf", "cache", "rm", f"model/{repository}")
    return f"What was fetched of {repository} stays in the hub's cache; to remove it, too: `{command}`."
