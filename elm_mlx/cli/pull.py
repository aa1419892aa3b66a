"""`elm-mlx pull`: a name in, its model on this machine."""

from __future__ import annotations

import click

from elm_mlx.cli.find import BITS, find
from elm_mlx.cli.messages import quietable


@click.command()
@click.argument("name")
@click.option("--bits", type=BITS, help="Make this variant.")
@click.option("--force", is_flag=True, help="Fetch it even if this machine's memory seems too small for it.")
@quietable
def command(name: str, bits: str | None, force: bool) -> None:
    """Fetch NAME, and convert it unless it is MLX's already.

    NAME is one that `elm-mlx list` shows, or OWNER/NAME[@REVISION] of a repository. What is on this machine
    already is not fetched again. Prints the model's directory.
    """
    click.echo(find(name, bits, force))
