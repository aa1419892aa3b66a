"""`elm-mlx info`: what a model is and takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

import elm_mlx
from elm_mlx import demo
from elm_mlx.cli.caches import KV_BITS, WINDOW
from elm_mlx.cli.find import complete_names, refuse_bits
from elm_mlx.cli.info_hosts import refuse_caches, refuse_idle_kind, show_hosts
from elm_mlx.cli.kinds import BITS, COUNT, NAME, TEXT
from elm_mlx.cli.messages import one_line, quietable
from elm_mlx.cli.parallel import KINDS
from elm_mlx.cli.wishes import is_wish, naming, settle
from elm_mlx.config.quantization import in_words
from elm_mlx.files import readable_size
from elm_mlx.store import conversion_record

if TYPE_CHECKING:
    from elm_mlx import ModelInfo


@click.command()
@click.argument("model", type=NAME, required=False, shell_complete=complete_names)
@click.option("--context", type=COUNT, help="Show the memory with a cache for this many tokens.")
@click.option("--bits", type=BITS, help="Show the memory as if it were quantized to this many bits.")
@WINDOW
@KV_BITS
@click.option("--hosts", type=TEXT, metavar="NxGB,...", help="Plan for N machines of this many GB each: 2x128.")
@click.option(
    "--parallel", type=click.Choice(KINDS), help="With --hosts: how they share it. Default: tensor where possible."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@quietable
def command(
    model: str | None,
    context: int | None,
    bits: str | None,
    hosts: str | None,
    parallel: str | None,
    as_json: bool,
    **caches: Any,
) -> None:
    """Show the family, exact size and memory of MODEL, and whether this machine has room for it.

    MODEL is a name or a directory; the built-in demo by default. Only headers are read, so this is quick for any
    size.

    With --hosts, plan for machines that are not here, and for a known model that is not here either: the bytes that
    each takes, the context that fits, and the most tokens per second.
    """
    if hosts is not None:
        settle(refuse_caches, caches, *caches)
        with naming("model"):
            show_hosts(model, hosts, parallel, {"context": context, "bits": bits}, as_json)
        return
    settle(refuse_idle_kind, {"parallel": parallel}, "parallel")
    if is_wish("bits"):  # which is for what is run: typed, the question is what the model would take in these bits
        asked = {"bits": bits}
        settle(partial(refuse_bits, model), asked, "bits")
        bits = asked["bits"]
    with naming("model"):
        info = settle(partial(elm_mlx.info, model, context, int(bits) if bits else None), caches, *caches)
    if as_json:
        click.echo(json.dumps(asdict(info) | {"fits": info.fits}))
        return
    for name, value in rows_of(info, model, bits).items():
        click.echo(one_line(f"{name:<16} {value}"))
    for notice in info.notices:
        click.echo(one_line(f"{'note':<16} {notice}"))


def rows_of(info: ModelInfo, model: str | None, bits: str | None) -> dict[str, str]:
    """What is shown of a model (None: the demo), by name; its memory as if in these `bits`, where they are given."""
    stored = f"{in_words(info.quantization)}, {info.dtype}" if info.quantization else info.dtype
    by_bits = ", ".join(f"{name}: {count:,}" for name, count in info.kv_bytes_by_bits.items())
    return {
        "model": info.model,
        **({} if model else {"about": demo.ABOUT, "card": str(demo.demo_directory() / "README.md")}),
        "family": info.family,
        **({"layers": info.sharing} if info.sharing else {}),
        "parameters": f"{info.parameters:,}",
        "stored as": stored,
        **({"calibration": conversion_record.in_words(info.calibration)} if info.calibration else {}),
        "bits per weight": f"{info.bits_per_weight:.3f}",
        "weights": f"{info.weight_bytes:,} bytes",
        "cache": f"{info.kv_bytes_per_token:,} bytes per token{f'; with --kv-bits {by_bits}' if by_bits else ''}",
        **({"limits": info.limits} if info.limits else {}),
        "context": f"{info.context_length:,} tokens",
        "memory": f"{info.footprint}{f', as if in {bits} bits' if bits else ''}",
        "fits": f"{'yes' if info.fits else 'no'}: this machine has {readable_size(info.available)} for a model",
        **({"predicted": str(info.predicted)} if info.predicted else {}),
    }
