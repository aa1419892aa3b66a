"""`elm-mlx doctor`: is all well here, and what to do if not."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.messages import one_line, quietable
from elm_mlx.errors import ElmError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array of the findings.")
@quietable
def command(as_json: bool) -> None:
    """Say what is installed, what is slow and what to do: Python, MLX and its backend, BLAS, memory, caches, the hub,
    and a self-test on the built-in demo.

    Exits with 1 if something is broken.
    """
    prefer_fast_blas()
    from elm_mlx.doctor import BROKEN, examine  # here, as it imports MLX

    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            click.echo(one_line(f"{finding.status:<7} {finding.name:<12} {finding.detail}"))
            if finding.advice:
                click.echo(f"{'':<20} {finding.advice}")
    if any(finding.status == BROKEN for finding in findings):
        raise click.exceptions.Exit(ElmError.exit_code)
