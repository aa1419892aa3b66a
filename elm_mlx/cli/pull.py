"""`elm-mlx pull`: a name in, its model on this machine."""

from __future__ import annotations

import click

from elm_mlx.cli.find import BITS, find
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import ProgressBar


@click.command()
@click.argument("name")
@click.option("--bits", type=BITS, help="Make this variant.")
@click.option("--force", is_flag=True, help="Fetch it even if this machine's memory seems too small for it.")
@click.option("--verify", is_flag=True, help="Read what was fetched again, and fetch what is damaged anew.")
@quietable
def command(name: str, bits: str | None, force: bool, verify: bool) -> None:
    """Fetch NAME, and convert it unless it is MLX's already.

    NAME is one that `elm-mlx list` shows, or OWNER/NAME[@REVISION] of a repository. What is on this machine
    already is not fetched again. Prints the model's directory.
    """
    if verify:
        from elm_mlx import locate  # here, as --help needs no MLX

        with ProgressBar("Checking", in_bytes=True) as bar:
            locate.verify(name, int(bits) if bits else None, bar, say)
    click.echo(find(name, bits, force))
