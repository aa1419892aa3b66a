"""`elm-mlx perplexity`: how well a model predicts a text."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elm_mlx import demo
from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.caches import KV_BITS
from elm_mlx.cli.find import load_with_notices
from elm_mlx.cli.generation_options import MODEL_AND_BITS
from elm_mlx.cli.kinds import COUNT, NAME, WINDOW_SIZE, Whole
from elm_mlx.cli.messages import one_line, quietable
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import naming

if TYPE_CHECKING:
    from elm_mlx.evaluate import Perplexity


@click.command()
@MODEL_AND_BITS
@click.option(
    "--text", type=NAME, metavar="FILE|DIR", help="UTF-8 text, or a folder of it. Default: the demo's held-out stories."
)
@click.option("--kl-against", "against", type=NAME, metavar="MODEL", help="Compare with this model, token by token.")
@click.option(
    "--window", type=Whole(min=2), help="Read this many tokens at once. Default: 2048, or the model's context."
)
@click.option(
    "--stride", type=COUNT, help="Begin each window this many tokens after the one before. Default: half a window."
)
@click.option("--windows", type=COUNT, help="Stop after this many windows.")
@click.option("--cache-window", type=WINDOW_SIZE, help="Let the model see only this many of the last tokens.")
@KV_BITS
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@quietable
def command(
    model: str | None,
    bits: str | None,
    text: str | None,
    against: str | None,
    window: int | None,
    stride: int | None,
    windows: int | None,
    cache_window: int | None,
    kv_bits: int | str | None,
    adapter: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how well a model predicts a text: the bits that it needs for a token and for a byte.

    Bits per byte compare any models; bits per token and perplexity only those with the same tokenizer. Each file is
    read by itself, in windows that overlap. --kl-against compares the predictions of two models token by token, such
    as a quantized one and its original; --kv-bits and --cache-window then concern only the first one.
    """
    prefer_fast_blas()
    texts = read_texts(text)
    options: dict[str, Any] = {"adapter": adapter}
    with load_with_notices(model, bits, force, None, options) as lm:
        from elm_mlx.evaluate import perplexity  # here, as --help needs no MLX

        with (
            load_with_notices(against, None, force, None, {}) if against else nullcontext() as other,
            ProgressBar("Reading", in_bytes=False) as bar,
        ):
            done = perplexity(
                lm, texts, window=window, stride=stride, windows_at_most=windows, adapter=options["adapter"],
                against=other, cache_window=cache_window, kv_bits=kv_bits, progress=bar,
            )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"model": model or "demo", "text": text or "held-out stories"} | asdict(done)))
        return
    for name, value in rows(done).items():
        click.echo(one_line(f"{name:<16} {value}"))


def read_texts(place: str | None) -> list[str]:
    """The texts of a file or of a directory; without one, the demo's held-out stories. Raises NotFound,
    InvalidRequest."""
    from elm_mlx.store.text_files import read_beginning, text_files  # here, as --help needs no MLX

    with naming("text"):
        files = text_files(Path(place) if place else demo.demo_directory() / "held_out.txt", "text")
        return [read_beginning(file) for file in files]


def rows(done: Perplexity) -> dict[str, str]:
    """The figures for a person, by name."""
    error = f" ± {done.bits_per_token_error:.3f}" if done.bits_per_token_error is not None else ""
    told = {
        "bits per byte": f"{done.bits_per_byte:.4f}",
        "bits per token": f"{done.bits_per_token:.4f}{error}",
        "perplexity": f"{done.perplexity:.4g} per token",
    }
    if done.kl_divergence is not None:
        told |= {
            "KL divergence": f"{done.kl_divergence:.3g} nats per token",
            "same first token": f"{done.same_top:.2%}",
            "the other model": f"{done.other_bits_per_token:.4f} bits per token",
        }
    return told | {
        "text": f"{done.tokens:,} tokens, {done.bytes:,} bytes",
        "windows": f"of {done.window:,} tokens, {done.stride:,} apart",
    }
