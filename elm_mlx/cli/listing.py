"""`elm-mlx list`: the known models, and what of them is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import elm_mlx
from elm_mlx.cli.messages import one_line, with_flags
from elm_mlx.cli.wishes import settle
from elm_mlx.device.memory import memory_limit, rough_bytes
from elm_mlx.errors import ElmError, InvalidRequest, NotFound
from elm_mlx.files import readable_size
from elm_mlx.library import copies
from elm_mlx.library.local import locate
from elm_mlx.library.names import READY_BITS, Known, known_models
from elm_mlx.shell import command_line
from elm_mlx.store.layout import is_complete


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("-q", "--names", "names_only", is_flag=True, help="Print only the names.")
def command(as_json: bool, names_only: bool) -> None:
    """List the names that --model takes, what is on this machine, its size and bits, and whether it fits.

    Asks no network.
    """
    shown = {"as_json": as_json, "names_only": names_only}
    settle(refuse_contradiction, shown, "as_json", "names_only")
    rows = [row for model in known_models().values() for row in known_rows(model)]
    rows += other_rows({row["path"] for row in rows})
    if shown["as_json"]:
        click.echo(json.dumps(rows))
        return
    if shown["names_only"]:
        click.echo("\n".join(dict.fromkeys(row["name"] for row in rows)))
        return
    for row in rows:
        click.echo(one_line(line(row)))


def refuse_contradiction(as_json: bool, names_only: bool) -> None:
    """Raises InvalidRequest where both ways to print are asked for."""
    if as_json and names_only:
        raise InvalidRequest("", "{as_json} prints everything and {names_only} names alone. Leave one out.")


def known_rows(model: Known) -> list[dict[str, Any]]:
    """The rows of a known model, one for each variant that is on this machine. Where there is none, a row says whether
    the model would fit, computed from its parameters without a cache."""
    named = {"name": model.name, "repository": model.ready or model.original, "parameters": model.parameters}
    try:
        found = [locate(model.name), *copies.copies_of(model)]
    except ElmError as error:
        return [named | {"path": None, "bytes": None, "bits": None, "fits": None, "error": with_flags(error)}]
    if paths := dict.fromkeys(place.path for place in found if place):
        return [named | directory_figures(path, model.name) for path in paths]
    fits = rough_bytes(model.parameters, READY_BITS if model.ready else None) <= memory_limit()
    return [named | {"path": None, "bytes": None, "bits": None, "fits": fits, "error": None}]


def other_rows(shown: set[str | None]) -> list[dict[str, Any]]:
    """The rows of elm-mlx's copies that no short name stands for; `shown` are the paths in the rows of known models."""
    return [
        {"name": copy.repository, "repository": copy.repository, "parameters": None}
        | directory_figures(copy.path, copy.repository)
        for copy in copies.all_copies()
        if str(copy.path) not in shown
    ]


def directory_figures(path: Path, name: str) -> dict[str, Any]:
    """The figures of the directory of a model with this name, from its headers. A damaged one gives its error, and
    hides no others."""
    try:
        if not is_complete(path):
            remove = command_line("elm-mlx", "rm", name)
            raise NotFound(f"{path} has lost files. Make it again by `{pull_command(name, path)}`, or remove it by "
                           f"`{remove}`.")  # fmt: skip
        info = elm_mlx.info(path)
    except ElmError as error:
        return {"path": str(path), "bytes": None, "bits": None, "fits": None, "error": with_flags(error)}
    return {
        "path": str(path),
        "bytes": info.weight_bytes,
        "bits": round(info.bits_per_weight, 2),
        "fits": info.fits,
        "error": None,
    }


def pull_command(name: str, path: Path) -> str:
    """The command that makes the copy of a model in a directory again."""
    copy = copies.copy_at(path)
    bits = copy.variant.removesuffix("bit") if copy and copy.variant.endswith("bit") else None
    return command_line("elm-mlx", "pull", name, *(("--bits", bits) if bits else ()))


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    here = f"{readable_size(row['bytes'])}, {row['bits']} bits, {row['path']}" if row["bytes"] else row["error"]
    size = f"{row['parameters'] / 1e9:.2f}B" if row["parameters"] else ""
    fits = {True: "fits", False: "too large", None: ""}[row["fits"]]
    return f"{row['name']:<24} {size:>8}  {fits:<9}  {here or ''}".rstrip()
