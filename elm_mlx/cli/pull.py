"""`elm-mlx pull`: brings the model of a name to this machine."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click

from elm_mlx.cli.find import complete_names, pull_directory
from elm_mlx.cli.kinds import BITS, NAME
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import bars
from elm_mlx.cli.wishes import settle


@click.command()
@click.argument("name", type=NAME, shell_complete=complete_names)
@click.option("--bits", type=BITS, help="Quantize to this many bits. Default: as published.")
@click.option("--force", is_flag=True, help="Fetch it even if this machine's memory seems too small for it.")
@click.option("--verify", is_flag=True, help="Check what was fetched, fetch again what is damaged, convert again.")
@quietable
def command(name: str, bits: str | None, force: bool, verify: bool) -> None:
    """Fetch a model, and convert it unless it is an MLX model already.

    NAME is one that `elm-mlx list` shows, or OWNER/NAME[@REVISION] of a repository. What is on this machine
    already is not fetched again. Prints the model's directory.
    """
    from elm_mlx.library.local import fetchable_name  # here, as --help needs no MLX

    fetchable_name(name)
    asked = {"bits": bits}
    repairing = partial(repair_model, name, force)
    path = settle(repairing, asked, "bits") if verify else pull_directory(name, asked, force)
    click.echo(os.fsencode(str(path)))  # as bytes, since a path need not be UTF-8


def repair_model(name: str, force: bool, bits: str | None) -> Path:
    """Checks a model, fetches again what is damaged, converts it again, and returns its directory."""
    from elm_mlx.library.pull import repair  # here, as --help needs no MLX

    with bars("Checking", "Fetching", "Converting") as (checking, fetching, converting):
        number = int(bits) if bits else None
        found = repair(name, number, checking=checking, fetching=fetching, converting=converting, say=say, force=force)
    return found.path
