"""`elm-mlx pull`: brings the model of a name to this machine."""

from __future__ import annotations

from pathlib import Path

import click

from elm_mlx.cli.find import BITS, complete_names, pull_directory
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import bars


@click.command()
@click.argument("name", shell_complete=complete_names)
@click.option("--bits", type=BITS, help="Make this variant.")
@click.option("--force", is_flag=True, help="Fetch it even if this machine's memory seems too small for it.")
@click.option("--verify", is_flag=True, help="Believe nothing that is here: check what was fetched, and convert anew.")
@quietable
def command(name: str, bits: str | None, force: bool, verify: bool) -> None:
    """Fetch NAME, and convert it unless it is MLX's already.

    NAME is one that `elm-mlx list` shows, or OWNER/NAME[@REVISION] of a repository. What is on this machine
    already is not fetched again. Prints the model's directory.
    """
    if verify:
        click.echo(repair_model(name, bits))
        return
    from elm_mlx.library.local import fetchable_name  # here, as --help needs no MLX

    fetchable_name(name)
    click.echo(pull_directory(name, bits, force))


def repair_model(name: str, bits: str | None) -> Path:
    """Checks a model, fetches again what is damaged, converts it again, and returns its directory."""
    from elm_mlx.library.pull import repair  # here, as --help needs no MLX

    with bars("Checking", "Fetching", "Converting") as (checking, fetching, converting):
        number = int(bits) if bits else None
        found = repair(name, number, checking=checking, fetching=fetching, converting=converting, say=say)
    return found.path
