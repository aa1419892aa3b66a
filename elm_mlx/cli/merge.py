"""`elm-mlx merge`: an adapter into the weights of its model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elm_mlx import demo
from elm_mlx.cli.adapter import parse_adapter
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.checkpoint import fetch_source, fetched_name
from elm_mlx.cli.find import MODEL
from elm_mlx.cli.kinds import NAME, TEXT_TOKENS
from elm_mlx.cli.messages import one_line, quietable, say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import settle
from elm_mlx.shell import command_line

if TYPE_CHECKING:
    from elm_mlx.convert.merge import Merged

TOKENS = 2048


@click.command()
@MODEL
@click.option("--adapter", type=NAME, required=True, metavar="PATH", help="Directory of the LoRA or DoRA.")
@click.option("-o", "--output", type=NAME, required=True, metavar="DIR", help="Directory to write.")
@click.option(
    "--source",
    type=NAME,
    help="The float model that a quantized one was made from. Default: as its conversion.json says.",
)
@click.option(
    "--keep",
    type=click.Choice(["8-bit", "floats"]),
    help="Without such floats: how adapted matrices are stored. Default: 8-bit.",
)
@click.option("--text", type=NAME, help="UTF-8 text to measure on. Default: the demo's held-out stories.")
@click.option("--tokens", type=TEXT_TOKENS, help="Measure on this many tokens of it. Default: 2048.")
@click.option("--force", is_flag=True, help="Replace an existing output, and take an adapter made for other weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
@quietable
def command(
    model: str | None,
    adapter: str,
    output: str,
    source: str | None,
    keep: str | None,
    text: str | None,
    tokens: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Merge an adapter into its model, and write the result.

    Quantizing a model a second time would lose most of a small adapter, so the adapted matrices of a quantized model
    are made anew from its float source, which conversion.json names. Without the source they are stored in 8 bits, or
    as floats. All other weights stay as they are. Prints the KL divergence of the merged model from the unmerged one,
    in nats per token.
    """
    prefer_fast_blas()
    from elm_mlx.convert.merge import merge  # here, as --help needs no MLX

    place: str | Path | None = source
    if source and fetched_name(source):
        place, _ = fetch_source(source, dry_run=False, with_tokenizer=False)
    asked = {"keep": keep, "source": place}
    with ProgressBar("Merging", in_bytes=True) as bar, ProgressBar("Measuring", in_bytes=False) as measuring:

        def run(keep: str | None, source: str | Path | None) -> Merged:
            return merge(
                model or demo.demo_directory(), parse_adapter(adapter)[1], output, source=source, keep=keep, text=text,
                tokens=tokens or TOKENS, force=force, progress=bar, measuring=measuring,
            )  # fmt: skip

        done = settle(run, asked, "keep", "source")
    if as_json:
        click.echo(json.dumps(asdict(done), default=str))
        return
    for line in lines(done):
        say(one_line(line))
    say(f"Try it: {command_line('elm-mlx', 'generate', '--model', done.output, '--prompt', 'Once upon a time')}")


def lines(done: Merged) -> list[str]:
    """What a merge did, in sentences."""
    kind, report = {"lora": "LoRA", "dora": "DoRA"}[done.kind], done.report
    made = f"from the floats in {done.source}" if done.source else "from the model's own numbers"
    why = f", as {done.why}" if done.why else ""
    return [
        f"{kind} of rank {done.rank} merged into {done.matrices} matrices, made {made}{why}; they are stored as "
        f"{done.stored_as}, all others as they were",
        f"{done.bytes / 1e6:,.1f} MB at {done.bits_per_weight:.2f} bits per weight in {done.output}",
        f"KL divergence from the unmerged model: {report.kl_divergence:.3g} nats per token over {report.tokens:,} "
        f"tokens; perplexity {report.perplexity:.4g}, unmerged {report.source_perplexity:.4g}",
    ]
