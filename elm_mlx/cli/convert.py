"""`elm-mlx convert`: a checkpoint in, an MLX directory out."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from elm_mlx.cli.find import BITS
from elm_mlx.cli.messages import quietable, say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.quantization import QUANTIZATION_MODES

GROUPS = list(map(str, QUANTIZATION_MODES["affine"][1]))


@click.command()
@click.argument("source", type=click.Path())
@click.option("--output", type=click.Path(), help="Directory to write. Default: beside SOURCE, bits in the name.")
@click.option("--bits", type=BITS, help="Quantize to this many bits.")
@click.option("--group-size", type=click.Choice(GROUPS), help="Weights that share a scale. Default: 64.")
@click.option("--mode", type=click.Choice(list(QUANTIZATION_MODES)), help="How to quantize.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@click.option(
    "--tokenizer",
    type=click.Path(),
    help="tokenizer.json or tokenizer.model, with the settings beside it, or its directory.",
)
@click.option("--max-shard-size", type=float, default=5.0, show_default=True, metavar="GB", help="Largest file.")
@click.option("--force", is_flag=True, help="Replace an output that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@quietable
def command(source: str, bits: str | None, group_size: str | None, as_json: bool, **options: Any) -> None:
    """Convert SOURCE, a checkpoint directory or a weights file beside its config.json.

    Reads Hugging Face's OpenELM and Llama 3 checkpoints, safetensors or .bin, without torch and without
    running anything in them. Unquantized unless --bits or --mode is given.
    """
    from elm_mlx.convert import convert  # here, as --help needs no MLX

    with ProgressBar("Converting", in_bytes=True) as bar:
        done = convert(
            source,
            bits=int(bits) if bits else None,
            group_size=int(group_size) if group_size else None,
            progress=bar,
            **options,
        )
    if as_json:
        click.echo(json.dumps(asdict(done) | {"output": str(done.output)}))
        return
    say(f"{done.layout} {done.family}, {done.parameters:,} parameters: {done.bytes / 1e6:,.1f} MB at "
        f"{done.bits_per_weight:.2f} bits per weight in {done.output}")  # fmt: skip
    if done.dropped:
        say(f"Left out, as nothing reads them: {', '.join(done.dropped)}")
    say(f'Try it: elm-mlx generate --model "{done.output}" --prompt "Once upon a time"')
