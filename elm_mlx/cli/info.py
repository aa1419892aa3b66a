"""`elm-mlx info`: what a model is and takes."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

import elm_mlx


@click.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str | None, as_json: bool) -> None:
    """Show the family, exact size and memory of MODEL, a model directory. Default: the built-in demo.

    Only headers are read, so this is quick for any size.
    """
    info = elm_mlx.info(model)
    if as_json:
        click.echo(json.dumps(asdict(info)))
        return
    q = info.quantization
    stored = f"{q['mode']} {q['bits']}-bit in groups of {q['group_size']}, {info.dtype}" if q else info.dtype
    rows = {
        "model": info.model,
        "family": info.family,
        "parameters": f"{info.parameters:,}",
        "stored as": stored,
        "bits per weight": f"{info.bits_per_weight:.3f}",
        "weights": f"{info.weight_bytes:,} bytes",
        "cache": f"{info.kv_bytes_per_token:,} bytes per token",
        "context": f"{info.context_length:,} tokens",
    }
    for name, value in rows.items():
        click.echo(f"{name:<16} {value}")
