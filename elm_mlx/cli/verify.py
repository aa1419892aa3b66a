"""`elm-mlx verify`: how far a converted model is from what it was made from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.checkpoint import fetch_source, fetched_name, refuse_rope_factor
from elm_mlx.cli.kinds import NAME, ROPE_FACTOR, TEXT_TOKENS, Number
from elm_mlx.cli.messages import one_line, quietable
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import naming, settle
from elm_mlx.errors import VerificationFailed

if TYPE_CHECKING:
    from elm_mlx.convert.verify import Report

ADVICE = {  # by the kind of failure
    "altered": "Fetch or convert it again, or name the checkpoint that it was made from; with --max-kl the divergence "
    "alone decides.",
    "source": "Fetch the source again, or name another checkpoint.",
    "broken": "Fetch or convert it again.",
    "diverged": "Convert with more bits, or set another bound with --max-kl.",
}


@click.command()
@click.argument("converted", type=NAME)
@click.option(
    "--against", "source", type=NAME, required=True, metavar="SOURCE", help="The checkpoint that it was made from."
)
@click.option("--text", type=NAME, help="UTF-8 text to read. Default: the demo's held-out stories.")
@click.option("--tokens", type=TEXT_TOKENS, help="Read this many tokens of it. Default: 2048.")
@click.option(
    "--max-kl", type=Number(min=0), metavar="NATS", help="Allow this divergence, and let nothing else decide."
)
@click.option("--rope-factor", type=ROPE_FACTOR, help="What a SOURCE in Meta's layout was converted with.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@quietable
def command(
    converted: str,
    source: str,
    text: str | None,
    tokens: int | None,
    max_kl: float | None,
    rope_factor: float | None,
    as_json: bool,
) -> None:
    """Compare CONVERTED, an MLX directory, with SOURCE on the same text.

    SOURCE is anything that `elm-mlx convert` reads. Both compute in float32, a layer at a time from disk, so the model
    may be larger than the memory. Exits with 72 if the KL divergence is above the bound for how the weights are
    stored, or if a weight that elm-mlx rounded is not SOURCE's, rounded. With --max-kl only the divergence decides.
    """
    prefer_fast_blas()
    from elm_mlx.convert.verify import TOKENS, check_options, open_directory, verify  # here, as --help needs no MLX

    read: dict[str, Any] = {"text": text, "tokens": tokens or TOKENS, "max_kl": max_kl}
    with naming("text"):
        check_options(**read)
    asked: dict[str, Any] = {"rope_factor": rope_factor}
    place: str | Path = source
    if fetched_name(source):
        settle(refuse_rope_factor, asked, "rope_factor")
        open_directory(Path(converted))  # a mistake in it is reported before anything large is fetched
        place, _ = fetch_source(source, dry_run=False, with_tokenizer=False)
    with ProgressBar("Verifying", in_bytes=False) as bar:
        done = settle(partial(verify, converted, place, progress=bar, **read), asked, "rope_factor")
    if as_json:
        outcome = {"passed": done.passed, "failure": done.failure and done.failure.what}
        figures = asdict(done) | {"converted": converted, "source": source} | outcome
        click.echo(json.dumps({name: finite(value) for name, value in figures.items()}))
    else:
        for name, value in rows(done).items():
            click.echo(one_line(f"{name:<16} {value}"))
    if failure := done.failure:
        raise VerificationFailed(f"{converted} does not pass against {source}: {failure.what}. {ADVICE[failure.kind]}")


def finite(value: object) -> object:
    """The value, or None for a number that JSON cannot write."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict(done: Report) -> str:
    """Whether the model passed, and by what alone where its weights say nothing."""
    if not done.passed:
        return "FAILED"
    if done.calibrated and done.must_match:
        return "passed, the calibrated weights by their divergence"
    return "passed by its divergence alone, as its weights are not the source's" if done.altered else "passed"


def rows(done: Report) -> dict[str, str]:
    """The report as a person reads it, texts by their labels."""
    return {
        "converted": str(done.converted),
        "source": str(done.source),
        "computed in": "float32, from the weights as they are stored",
        "weights": done.weights,
        "tokens": f"{done.tokens:,}",
        "logits": f"differ by up to {done.max_difference:.3g}, {done.relative_difference:.2g} of the largest",
        "KL divergence": f"{done.kl_divergence:.3g} nats per token, of the converted model from the source",
        "same likeliest": f"{done.same_top:.2%} of the tokens",
        "perplexity": f"{done.perplexity:.4g}, of the source {done.source_perplexity:.4g}",
        "bound": f"{done.bound:g} nats per token, the weights being stored as {done.stored}",
        "verdict": verdict(done),
    }
