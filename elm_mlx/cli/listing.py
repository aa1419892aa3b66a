"""`elm-mlx list`: the known models, and what of them is on this machine."""

from __future__ import annotations

import json
from typing import Any

import click

import elm_mlx
from elm_mlx.costs import gigabytes
from elm_mlx.machine import memory_limit
from elm_mlx.store import library, registry


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("-q", "--quiet", "names_only", is_flag=True, help="Print names alone.")
def command(as_json: bool, names_only: bool) -> None:
    """List the names that --model takes, what is on this machine, its size and bits, and whether it fits.

    Asks no network.
    """
    rows = known() + others()
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(row["name"] if names_only else line(row))


def known() -> list[dict[str, Any]]:
    return [
        {"name": model.name, "repository": model.ready or model.original, "parameters": model.parameters}
        | local(model.name)
        | {"fits": model.parameters * (0.6 if model.ready else 2) < memory_limit()}
        for model in registry.known_models().values()
    ]


def others() -> list[dict[str, Any]]:
    """Our copies that no short name stands for, or in other bits than it does."""
    shown = {row["path"] for row in known()}
    rest = [copy for copy in library.copies() if str(copy.path) not in shown]
    return [
        {"name": copy.repository, "repository": copy.repository, "parameters": None}
        | figures(copy.path)
        | {"fits": None}
        for copy in rest
    ]


def local(name: str) -> dict[str, Any]:
    from elm_mlx.locate import locate  # here, as --help needs no MLX

    found = locate(name)
    return figures(found.path) if found else {"path": None, "bytes": None, "bits": None}


def figures(path: Any) -> dict[str, Any]:
    info = elm_mlx.info(path)
    return {"path": str(path), "bytes": info.weight_bytes, "bits": round(info.bits_per_weight, 2)}


def line(row: dict[str, Any]) -> str:
    here = f"{gigabytes(row['bytes'])}, {row['bits']} bits, {row['path']}" if row["path"] else ""
    size = f"{row['parameters'] / 1e9:.2f}B" if row["parameters"] else ""
    fits = "" if row["fits"] is not False else "too large for this machine"
    return f"{row['name']:<24} {size:>8}  {here or fits}".rstrip()
