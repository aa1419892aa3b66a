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

from elm_mlx.cli.blas import prefer_fast_blas
from elm_mlx.cli.kinds import BITS, CALIBRATION_TEXT, CALIBRATION_TOKENS, NAME, ROPE_FACTOR, SHARD_GB, TARGET
from elm_mlx.cli.messages import one_line, quietable, say
from elm_mlx.cli.progress import ProgressBar
from elm_mlx.cli.wishes import naming, settle
from elm_mlx.config.quantization import QUANTIZATION_MODES, RECIPES, in_words
from elm_mlx.errors import InvalidRequest, TargetExists
from elm_mlx.files import can_name_a_file, readable_size
from elm_mlx.library.names import Known, parse_name
from elm_mlx.shell import command_line
from elm_mlx.store import conversion_record
from elm_mlx.store.weight_files import some

if TYPE_CHECKING:
    from elm_mlx.convert import Job

YIELDING = ("calibrate_tokens", "allow_nonfinite", "calibrate", "bits", "group_size", "mode", "recipe", "target_bits")
GROUP_SIZES = list(map(str, QUANTIZATION_MODES["affine"][1]))


@click.command()
@click.argument("source", type=NAME)
@click.option(
    "--output",
    type=NAME,
    help="Directory to write. Default: beside SOURCE, or here where SOURCE was fetched, with the bits in its name.",
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
    help="Quantize so that a text suffers least, with a UTF-8 file or a folder of them; without one, at the end "
    "of the command, on text that elm-mlx brings. Takes minutes to hours.",
)
@click.option("--calibrate-tokens", type=CALIBRATION_TOKENS, help="Read so many tokens of it, or all. Default: 65536.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Default: bfloat16.")
@click.option("--allow-nonfinite", is_flag=True, help="Let weights through that are NaN or infinite.")
@click.option(
    "--tokenizer",
    type=NAME,
    help="tokenizer.json or tokenizer.model, with the settings beside it, or its directory.",
)
@click.option("--rope-factor", type=ROPE_FACTOR, help="RoPE scaling of Meta's files. Default: 8, in 3.2's sizes 32.")
@click.option("--unshare", is_flag=True, help="Write weights that layers share for each layer, as mlx-lm needs them.")
@click.option("--max-shard-size", type=SHARD_GB, metavar="GB", help="Largest file. Default: 5.")
@click.option("--force", is_flag=True, help="Replace an output that is there already.")
@click.option("--verify", is_flag=True, help="Run the result against SOURCE before it is kept (see elm-mlx verify).")
@click.option("--dry-run", is_flag=True, help="Print what would be done, with every tensor in --json, and do nothing.")
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
    on this machine; for OpenELM with its tokenizer. Reads OpenELM and Llama 3 checkpoints in the layouts of Hugging
    Face, CoreNet, Meta, MLX and GGUF, without torch and without running anything in them. Unquantized unless --bits,
    --mode, --recipe or --target-bits is given; matrices that SOURCE has in few bits stay so where none of the four, nor
    --dtype, is given and MLX can keep them.
    """
    if verify or options["calibrate"]:
        prefer_fast_blas()
    from elm_mlx.convert import check, check_options, check_text, check_tokenizer, plan  # here: --help needs no MLX

    options |= {"bits": int(bits) if bits else None, "group_size": int(group_size) if group_size else None}
    tokenizer = options.pop("tokenizer")
    settle(check_options, options, *YIELDING)
    with naming("calibrate"):
        check_text(options["calibrate"])
    if tokenizer:
        with naming("tokenizer"):
            check_tokenizer(tokenizer)
    place = Path(source)
    if name := fetched_name(source):
        settle(refuse_rope_factor, options, "rope_factor")
        if not dry_run:
            checked = check(name, output, force=force, tokenizer=tokenizer, **options)
            output = str(checked) if output else None
        place, found = fetch_source(source, dry_run=dry_run, with_tokenizer=not tokenizer)
        tokenizer = tokenizer or found
    job = settle(partial(plan, place, output, tokenizer=tokenizer), options, "rope_factor")
    if dry_run:
        show(job.describe(), as_json)
        job.refuse(force)  # after the plan, which says what it would take
        return
    if job.calibration:
        say(one_line(f"Calibrating on {describe_calibration(job.calibration.describe(job.kept_stages))}"))
    with (
        ProgressBar("Calibrating", in_bytes=False, in_percent=True) as calibrating,
        ProgressBar("Converting", in_bytes=True) as bar,
        ProgressBar("Verifying", in_bytes=False) as verifying,
        telling_what_is_kept(job),
    ):
        done = job.run(force, verify, bar, verifying, calibrating)
    if as_json:
        click.echo(json.dumps(asdict(done) | {"output": str(done.output)}, default=str))
        return
    say(f"{done.layout} {done.family}, {done.parameters:,} parameters: {done.bytes / 1e6:,.1f} MB at "
        f"{done.bits_per_weight:.2f} bits per weight in {done.output}")  # fmt: skip
    if done.calibration:
        say(one_line(f"The quantized weights are {conversion_record.in_words(done.calibration)}"))
    if done.kept:
        say(one_line(f"{conversion_record.kept_in_words(done.kept)}."))
    if done.dropped:
        say(f"Left out, as nothing reads them: {some(done.dropped)}")
    if report := done.report:
        say(f"Verified: {report.kl_divergence:.3g} nats per token from its source, of {report.bound:g} allowed")
    if done.chat_refusal:
        say(f"The model completes text, but cannot chat: {done.chat_refusal}")
    raw = ["--raw"] if done.chat_refusal else []
    command = command_line("elm-mlx", "generate", "--model", done.output, *raw, "--prompt", "Once upon a time")
    say(f"Try it: {command}")


def show(planned: dict[str, Any], as_json: bool) -> None:
    """Prints the plan of a conversion, as JSON or in rows."""
    if as_json:
        click.echo(json.dumps(planned))
        return
    how = planned["quantization"]
    kept = f", {planned['kept']} matrices as the source has them" if planned["kept"] else ""
    rows = {
        "source": f"{planned['source']}: {planned['layout']} {planned['family']}, {planned['parameters']:,} parameters",
        "tensors": f"{len(planned['tensors'])}, of which {sum(a != b for a, b in planned['tensors'].items())} renamed",
        "left out": ", ".join(planned["dropped"]) or "nothing",
        "tokenizer": planned["tokenizer"],
        "stored as": (in_words(how) if how else planned["dtype"]) + kept,
        "output": f"{planned['output']}: {readable_size(planned['bytes'])} at {planned['bits_per_weight']:.2f} bits "
        f"per weight, {len(planned['files'])} file{'s' * (len(planned['files']) > 1)}",
        **({"calibration": describe_calibration(calibration)} if (calibration := planned["calibration"]) else {}),
        "memory": f"at most {readable_size(planned['memory'])}",
        "disk": f"{readable_size(planned['disk_free'])} free",
    }
    for name, value in rows.items():
        click.echo(one_line(f"{name:<12} {value}"))


def describe_calibration(planned: dict[str, Any]) -> str:
    """Describes a calibration that is planned, for people."""
    share = ", all" if planned["whole_text"] else ""
    kept = f", of which {done} are done" if (done := planned["done"]) else ""
    return (f"{planned['tokens']:,} tokens{share} of the text {planned['text']['name']}, in {planned['stages']} "
            f"stages{kept}; at most {readable_size(planned['disk'])} of disk beside the output")  # fmt: skip


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


def refuse_rope_factor(rope_factor: float | None, **_: object) -> None:
    """Raises InvalidRequest for a factor of Meta's layout, which no repository that is fetched by name has."""
    if rope_factor is not None:
        raise InvalidRequest("", "{rope_factor} is for Meta's own layout (params.json), which is not fetched by name. "
                             "Leave it out.")  # fmt: skip


def fetched_name(source: str) -> str | None:
    """The name, without its owner, of the repository that a model's name stands for; None for a path and for what is on
    this machine, a file or a directory."""
    if can_name_a_file(Path(source)) and Path(source).exists():
        return None
    named = parse_name(source)
    if isinstance(named, Path):
        return None
    return (named.original if isinstance(named, Known) else named.name).partition("/")[2]


def fetch_source(source: str, *, dry_run: bool, with_tokenizer: bool) -> tuple[Path, Path | None]:
    """Fetches a checkpoint by name, and its tokenizer where one is wanted; gives (its directory, the tokenizer if that
    is from elsewhere). A dry run fetches nothing."""
    from elm_mlx.library.local import cached_checkpoint
    from elm_mlx.library.pull import fetch_checkpoint

    with ProgressBar("Fetching", in_bytes=True) as bar:
        if dry_run:
            found = cached_checkpoint(source, tokenizer=with_tokenizer)
        else:
            found = fetch_checkpoint(source, bar, say, tokenizer=with_tokenizer)
    say(f"{found.repository.name} at commit {found.snapshot.commit[:12]}")
    return found.snapshot.path, found.tokenizer
