"""`elm-mlx launch`: one command on several machines, or several processes of this one."""

from __future__ import annotations

from pathlib import Path

import click

from elm_mlx.cli.kinds import NAME, Whole
from elm_mlx.cli.messages import quietable, tell
from elm_mlx.cli.parallel import check_words
from elm_mlx.distributed.host_file import BACKENDS, MOST_HOSTS, Machines, backend_of, machines_here, read_hosts
from elm_mlx.errors import InvalidRequest


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--ranks", type=Whole(2, MOST_HOSTS), metavar="N", help="Run this many ranks on this machine.")
@click.option("--hosts", type=NAME, metavar="FILE", help="Run a rank on each host of this file, in MLX's format.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="ring: TCP over any network. jaccl: RDMA over Thunderbolt 5. Default: as the file says, else ring.",
)
@click.option("--python", type=NAME, metavar="PATH", help="Python on all machines. Default: the path of this one.")
@click.option(
    "--starting-port",
    type=Whole(1, 65535),
    metavar="PORT",
    help="The first of the ports that ranks listen at. Default: 32323; free ones if all are on this machine.",
)
@quietable
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND ...")
def command(
    ranks: int | None,
    hosts: str | None,
    backend: str | None,
    python: str | None,
    starting_port: int | None,
    command: tuple[str, ...],
) -> None:
    """Run generate, chat, batch, serve or bench on several machines that hold one model together, as in
    `elm-mlx launch -n 2 generate -m MODEL --parallel tensor`.

    A rank is a process that holds a part. Rank 0 runs on this machine and keeps the terminal. Each machine needs
    elm-mlx and the model at the same paths, and ssh without a password. If one rank ends, all end. docs/distributed.md
    has host files, and what is refused.
    """
    from elm_mlx.distributed.launch import Job, launch  # here, as --help needs none of it

    check_words(command)
    machines = machines_of(ranks, hosts)
    job = Job(command, machines, backend_of(machines, backend), python, starting_port)
    raise click.exceptions.Exit(launch(job, tell))


def machines_of(ranks: int | None, hosts: str | None) -> Machines:
    """The machines that were named. Raises InvalidRequest for none, and for both."""
    if bool(ranks) == bool(hosts):
        raise InvalidRequest("Ranks run on this machine, or on those that a file names.",
                             "Give either {ranks=2} or {hosts=FILE}.")  # fmt: skip
    return machines_here(ranks) if ranks else read_hosts(Path(str(hosts)))
