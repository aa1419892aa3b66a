"""`elm-mlx info`: what a model is and takes."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

import elm_mlx
from elm_mlx import demo
from elm_mlx.cli.find import BITS, complete_names
from elm_mlx.cli.messages import one_line, quietable
from elm_mlx.config.quantization import in_words
from elm_mlx.files import readable_size


@click.command()
@click.argument("model", required=False, shell_complete=complete_names)
@click.option("--context", type=click.IntRange(min=1), help="Show the memory with a cache for this many tokens.")
@click.option("--bits", type=BITS, help="Show the memory as if it were quantized to this many bits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@quietable
def command(model: str | None, context: int | None, bits: str | None, as_json: bool) -> None:
    """Show the family, exact size and memory of MODEL, and whether this machine has room for it.

    MODEL is a name or a directory; the built-in demo by default. Only headers are read, so this is quick for any
    size.
    """
    info = elm_mlx.info(model, context, int(bits) if bits else None)
    if as_json:
        click.echo(json.dumps(asdict(info) | {"fits": info.fits}))
        return
    stored = f"{in_words(info.quantization)}, {info.dtype}" if info.quantization else info.dtype
    rows = {
        "model": info.model,
        **({} if model else {"about": demo.ABOUT, "card": str(demo.demo_directory() / "README.md")}),
        "family": info.family,
        "parameters": f"{info.parameters:,}",
        "stored as": stored,
        "bits per weight": f"{info.bits_per_weight:.3f}",
        "weights": f"{info.weight_bytes:,} bytes",
        "cache": f"{info.kv_bytes_per_token:,} bytes per token",
        "context": f"{info.context_length:,} tokens",
        "memory": str(info.footprint),
        "fits": f"{'yes' if info.fits else 'no'}: this machine has {readable_size(info.available)} for a model",
    }
    for name, value in rows.items():
        click.echo(one_line(f"{name:<16} {value}"))
