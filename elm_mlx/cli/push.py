"""`elm-mlx push`: shares a converted model on the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path

import click

from elm_mlx.cli.kinds import NAME
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import bars


@click.command()
@click.argument("directory", type=NAME)
@click.argument("name", type=NAME, metavar="OWNER/NAME")
@click.option(
    "--license", type=NAME, metavar="ID", help="The model's licence if its origin names none, such as apache-2.0."
)
@click.option("--private", is_flag=True, help="Make a repository that only you can see.")
@click.option("--dry-run", is_flag=True, help="Check the model and list its files, but send nothing.")
@click.option("--yes", is_flag=True, help="You have read the gated original's licence, and it lets you share this.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON object.")
@quietable
def command(
    directory: str, name: str, license: str | None, private: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Upload DIRECTORY, a model that `elm-mlx convert` wrote, to the Hugging Face hub as OWNER/NAME.

    Its model card, licence and origin are checked first. The repository is made if there is none, public unless
    --private is given. If a push is stopped, give it again: only what is missing is sent. HF_TOKEN must be a token
    that may write. Prints the address of the page.
    """
    from elm_mlx.library.push import prepare, push  # here, as --help needs no MLX

    place = Path(directory).expanduser()
    if dry_run:
        shared = prepare(place, name, license=license, yes=yes)
        told = {"repository": shared.repository, "files": sorted(shared.files), "bytes": shared.nbytes}
        click.echo(json.dumps(told) if as_json else "\n".join([*sorted(shared.files), f"{shared.nbytes:,} bytes"]))
        return
    with bars("Sending") as (sending,):
        pushed = push(place, name, license=license, private=private, yes=yes, progress=sending, say=say)
    if as_json:
        click.echo(json.dumps({"url": pushed.url, "commit": pushed.commit, "bytes": pushed.nbytes}))
    else:
        say(f"Sent {pushed.nbytes / 1e6:,.1f} MB, commit {pushed.commit[:12]}.")
        click.echo(pushed.url)
