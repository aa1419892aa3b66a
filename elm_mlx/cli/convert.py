"""`elm-mlx convert`: a checkpoint in, an MLX directory out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.checkpoint import fetch_source, fetched_name, refuse_rope_factor
from elm_mlx.cli.conversion_text import describe_calibration, show_plan, tell_result
from elm_mlx.cli.kinds import BITS, CALIBRATION_TEXT, CALIBRATION_TOKENS, NAME, ROPE_FACTOR, SHARD_GB, TARGET
from elm_mlx.cli.messages import one_line, quietable, say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import naming, settle
from elm_mlx.config.quantization import QUANTIZATION_MODES, RECIPES
from elm_mlx.errors import TargetExists

if TYPE_CHECKING:
    from elm_mlx.convert import Conversion, Job

YIELDING = ("calibrate_tokens", "allow_nonfinite", "calibrate", "bits", "group_size", "mode", "recipe", "target_bits")
GROUP_SIZES = list(map(str, QUANTIZATION_MODES["affine"][1]))


class SourceArgument(click.Argument):
    """SOURCE; where it is missing because `--calibrate SOURCE` took it for the text, this says so."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter:
            text = ctx.params.get("calibrate")
            if isinstance(text, bool | None) or ctx.get_parameter_source("calibrate") != ParameterSource.COMMANDLINE:
                raise
            raise click.UsageError(f"--calibrate took {text} for the text to read, so SOURCE is missing. Write "
                                   "--calibrate after SOURCE.", ctx) from None  # fmt: skip


@click.command()
@click.argument("source", type=NAME, cls=SourceArgument)
@click.option(
    "--output",
    type=NAME,
    help="Directory to write. Default: beside SOURCE, or here if SOURCE is a name, with the bits in its name.",
)
@click.option("--bits", type=BITS, help="Quantize to this many bits.")
@click.option("--group-size", type=click.Choice(GROUP_SIZES), help="Weights that share a scale. Default: 64.")
@click.option("--mode", type=click.Choice(list(QUANTIZATION_MODES)), help="How to quantize.")
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="More bits where they count, fewer elsewhere.")
@click.option("--target-bits", type=TARGET, help="Mix bits so that a weight has at most so many, scales included.")
@click.option(
    "--calibrate",
    type=CALIBRATION_TEXT,
    is_flag=False,
    flag_value=True,
    metavar="[FILE|DIR]",
    help="Quantize with less loss, by a text: a UTF-8 file, or a folder of them. Without one, write it at the end of "
    "the command; elm-mlx brings a text. Takes minutes to hours.",
)
@click.option("--calibrate-tokens", type=CALIBRATION_TOKENS, help="Read this many tokens of it. Default: 65536.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Default: bfloat16.")
@click.option("--allow-nonfinite", is_flag=True, help="Accept weights that are NaN or infinite.")
@click.option(
    "--tokenizer",
    type=NAME,
    help="tokenizer.json or tokenizer.model, with the settings beside it, or its directory.",
)
@click.option(
    "--rope-factor",
    type=ROPE_FACTOR,
    help="RoPE scaling of Meta's files. Default: 32 in the sizes of Llama 3.2, else 8.",
)
@click.option("--unshare", is_flag=True, help="Write shared weights once for each layer, as mlx-lm needs them.")
@click.option("--max-shard-size", type=SHARD_GB, metavar="GB", help="Largest file. Default: 5.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option("--verify", is_flag=True, help="Compare the result with SOURCE before it is kept (see elm-mlx verify).")
@click.option("--dry-run", is_flag=True, help="Only print what would be done; with --json every tensor, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@quietable
def command(
    source: str,
    output: str | None,
    bits: str | None,
    group_size: str | None,
    force: bool,
    verify: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert SOURCE: a checkpoint's directory or weights file, or a name.

    A name is one that `elm-mlx list` shows, or OWNER/NAME[@REVISION] of a repository, which is fetched if it is not
    on this machine; OpenELM's tokenizer is fetched with it. Reads OpenELM and Llama 3 checkpoints in the layouts of
    Hugging Face, CoreNet, Meta, MLX and GGUF, without torch and without running anything in them.

    Writes floats unless --bits, --mode, --recipe or --target-bits is given. Without these and --dtype, matrices that
    SOURCE has in few bits keep them where MLX can.
    """
    if verify or options["calibrate"]:
        prefer_fast_blas()
    from elm_mlx.convert import check, plan  # here, as --help needs no MLX

    options |= {"bits": int(bits) if bits else None, "group_size": int(group_size) if group_size else None}
    place, tokenizer = Path(source), options.pop("tokenizer")
    judge(options, tokenizer)
    if name := fetched_name(source):
        settle(refuse_rope_factor, options, "rope_factor")
        if not dry_run:
            checked = check(name, output, force=force, tokenizer=tokenizer, **options)
            output = str(checked) if output else None
        place, found = fetch_source(source, dry_run=dry_run, with_tokenizer=not tokenizer)
        tokenizer = tokenizer or found
    job = settle(partial(plan, place, output, tokenizer=tokenizer), options, "rope_factor")
    if dry_run:
        show_plan(job.describe(), as_json)
        job.refuse(force)  # after the plan, which says what it would take
        return
    done = run(job, force, verify)
    if as_json:
        click.echo(json.dumps(asdict(done) | {"output": str(done.output)}, default=str))
    else:
        tell_result(done)


def judge(options: dict[str, Any], tokenizer: str | None) -> None:
    """Raises InvalidRequest for options without a meaning, before anything is fetched."""
    from elm_mlx.convert import check_options, check_text, check_tokenizer  # here, as --help needs no MLX

    settle(check_options, options, *YIELDING)
    with naming("calibrate"):
        check_text(options["calibrate"])
    if tokenizer:
        with naming("tokenizer"):
            check_tokenizer(tokenizer)


def run(job: Job, force: bool, verify: bool) -> Conversion:
    """Converts, with bars of how far it is."""
    if job.calibration:
        say(one_line(f"Calibrating on {describe_calibration(job.calibration.describe(job.kept_stages))}"))
    with (
        ProgressBar("Calibrating", in_bytes=False, in_percent=True) as calibrating,
        ProgressBar("Converting", in_bytes=True) as bar,
        ProgressBar("Verifying", in_bytes=False) as verifying,
        telling_what_is_kept(job),
    ):
        return job.run(force, verify, bar, verifying, calibrating)


@contextmanager
def telling_what_is_kept(job: Job) -> Iterator[None]:
    """Where a run ends early, says how many stages of its calibration are kept, and where."""
    try:
        yield
    except TargetExists:  # perhaps another run is at work there
        raise
    except BaseException:
        with suppress(OSError):  # the source may be gone, and that be the reason
            if kept := job.kept_stages:
                say(f"{kept} stages of the calibration are kept in {job.calibration_folder}: the same command goes on "
                    "with them. If it is not to, remove that folder.")  # fmt: skip
        raise
