"""Conversion: a checkpoint as it was published goes in, an MLX directory in mlx-lm's layout comes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import elm_mlx.device.backend  # noqa: F401  first: it says what to install where MLX has no backend
from elm_mlx.arguments import Progress, named_path, real_number
from elm_mlx.config import GuestConfig, ModelConfig
from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate import given_text
from elm_mlx.convert.calibrate.options import is_wanted, text_path, token_count
from elm_mlx.convert.calibrate.work import Calibration
from elm_mlx.convert.form import DEFAULT_DTYPE, WEIGHT_DTYPES, Form
from elm_mlx.convert.job import Conversion, Job
from elm_mlx.convert.kept import Kept, kept_quantization
from elm_mlx.convert.keymap import Matched, match
from elm_mlx.convert.output.config_file import output_config
from elm_mlx.convert.output.path_guards import check_places, refuse_unnameable
from elm_mlx.convert.output.pipeline import Shards, plan_shards
from elm_mlx.convert.output.target import discard, refuse_existing, refuse_unfit, unfinished, wait_for_other_run
from elm_mlx.convert.sources import Source, guest, open_source
from elm_mlx.convert.sources.meta import check_rope_factor
from elm_mlx.convert.sources.shared import is_shared
from elm_mlx.convert.tokenizer import TokenizerFiles, find_tokenizer, prepare_tokenizer
from elm_mlx.device.thread import on_device
from elm_mlx.errors import InvalidRequest
from elm_mlx.files import disk_errors, reading
from elm_mlx.shell import command_line
from elm_mlx.store.snapshot import snapshot_at

MIN_SHARD_GB, SHARD_GB, MAX_SHARD_GB = 1e-6, 5.0, 1e6

__all__ = ["Conversion", "Job", "check", "check_text", "convert", "discard", "plan", "unfinished", "wait_for_other_run"]


def check(
    source: str | Path,
    output: str | Path | None = None,
    *,
    force: bool = False,
    tokenizer: str | Path | None = None,
    max_shard_size: float | None = None,
    rope_factor: float | None = None,
    **form: Any,
) -> Path:
    """Checks a conversion as far as that is possible before `source`, a directory or a repository's name, is on this
    machine: its options (those of `convert`), the given tokenizer, and that the output can be written. Creates the
    folder that the output will lie in, and returns the output directory.

    Raises InvalidRequest, TargetExists, NotFound, MissingTokenizer, and ElmError for a place that cannot be written.
    """
    asked = check_options(max_shard_size=max_shard_size, rope_factor=rope_factor, **form)
    target = output_directory(output, named_path("source", source), asked)
    refuse_unnameable(target)
    with disk_errors(f"{target} cannot be written"):
        refuse_unfit(target)
        refuse_existing(target, force)
        target.parent.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    check_text(asked.calibrate)
    return target


def check_tokenizer(tokenizer: str | Path) -> Path:
    """Returns the path of a tokenizer that was given. Raises InvalidRequest, NotFound, MissingTokenizer."""
    given = named_path("tokenizer", tokenizer)
    with reading(given):
        find_tokenizer(given)
    return given


def check_text(calibrate: str | Path | bool | None) -> None:
    """Checks the text of a calibration, if one is given. Raises NotFound, InvalidRequest, ElmError."""
    if place := text_path(calibrate):
        given_text.check_text(place)


def check_options(*, max_shard_size: float | None = None, rope_factor: float | None = None, **form: Any) -> Form:
    """Checks the options of a conversion that need no source, and returns the form of its weights. Raises
    InvalidRequest."""
    asked = Form(**form)
    shard_bytes(max_shard_size)
    check_rope_factor(rope_factor)
    return asked


def plan(
    source: str | Path,
    output: str | Path | None = None,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    target_bits: float | None = None,
    dtype: str | None = None,
    allow_nonfinite: bool = False,
    calibrate: str | Path | bool | None = None,
    calibrate_tokens: int | None = None,
    tokenizer: str | Path | None = None,
    max_shard_size: float | None = None,
    rope_factor: float | None = None,
    unshare: bool = False,
) -> Job:
    """Checks the source, the options and the tokenizer, and writes nothing: returns the job that `convert` would run,
    whose `refuse` checks the target and the disk.

    Raises InvalidRequest, NotFound, MissingTokenizer, BadCheckpoint, Unsupported, and TargetExists for a target that
    would replace what is read.
    """
    asked = {"bits": bits, "group_size": group_size, "mode": mode, "recipe": recipe,
             "target_bits": target_bits, "dtype": dtype, "allow_nonfinite": allow_nonfinite, "calibrate": calibrate,
             "calibrate_tokens": calibrate_tokens, "unshare": unshare}  # fmt: skip
    form = check_options(max_shard_size=max_shard_size, rope_factor=rope_factor, **asked)
    file_bytes = shard_bytes(max_shard_size)
    given = None if tokenizer is None else check_tokenizer(tokenizer)
    check_text(calibrate)
    opened = open_source(named_path("source", source), rope_factor=rope_factor)
    opened = opened.unshared() if unshare else opened
    matched = match(opened.config, opened.family_layout, opened.tensors, opened.where)
    kept = kept_quantization(matched.tensors) if form.is_open else None
    dtype = dtype or (opened.kept_dtype if kept else DEFAULT_DTYPE)
    quantization = kept or quantization_for(form, opened.config, dtype)
    shards = plan_shards(opened.config, quantization, WEIGHT_DTYPES[dtype], file_bytes, allow_nonfinite)
    files = None if max_shard_size is None else list(shards.files)
    if given is None and opened.is_already(quantization, WEIGHT_DTYPES[dtype], files):
        raise already_so(source, opened.directory, is_wanted(calibrate))
    target = output_directory(output, beside(opened), form, kept)
    tokens = prepare_tokenizer(opened.directory, given, opened.config, opened.tokenizer)
    named = [opened.where, opened.directory, given or opened.directory, text_path(calibrate) or opened.directory]
    check_places(target, [*opened.files, *tokens.files], *named)
    config = output_config(opened.raw_config, opened.config, quantization, dtype)
    return Job(
        source=opened,
        target=target,
        matched=matched,
        tokenizer=tokens,
        config=config,
        shards=shards,
        options={"quantization": config.get("quantization"), "dtype": dtype, "max_shard_size": file_bytes / 1e9}
        | ({} if rope_factor is None else {"rope_factor": float(rope_factor)})
        | ({"allow_nonfinite": True} if allow_nonfinite else {})
        | ({"unshare": True} if unshare else {}),
        calibration=plan_calibration(form, opened.config, matched, shards, tokens) if is_wanted(calibrate) else None,
        kept=Kept(matched.tensors, shards.dtype, allow_nonfinite) if kept else None,
    )


def quantization_for(form: Form, config: ModelConfig, dtype: str) -> Quantization | None:
    """How a form has a model's matrices quantized; None for plain weights. Raises InvalidRequest and Unsupported for a
    form that a guest cannot have."""
    if not isinstance(config, GuestConfig):
        return form.quantization(config)
    guest.check_form(form, config, dtype)
    return guest.quantization_of(form.quantization(config), config)


def already_so(source: str | Path, directory: Path, calibrating: bool) -> InvalidRequest:
    """The error for a source that is stored as it is asked for already."""
    if calibrating:
        return InvalidRequest(f"{source} is quantized so already, and rounded weights leave nothing to calibrate. "
                              "Name the checkpoint that it was made from.")  # fmt: skip
    command = command_line("elm-mlx", "generate", "--model", directory)
    return InvalidRequest(f"{source} is an MLX model already, stored as you ask. Run it as it is: `{command}`.")


def plan_calibration(
    form: Form, config: ModelConfig, matched: Matched, shards: Shards, tokenizer: TokenizerFiles
) -> Calibration:
    """The calibration that a form asks for. Reads its text, and raises InvalidRequest and NotFound as
    `given_text.read_sample` does, and InvalidRequest where no matrix is quantized."""
    from elm_mlx.convert.calibrate import stages  # here, as only a calibration needs it

    if is_shared(config):
        raise InvalidRequest("Layers of this model share weights, and a calibration rounds a layer after another, for "
                             "the inputs of that layer alone.", "Leave {calibrate} out, or give {unshare=True}, too, "
                             "which writes each layer with weights of its own.")  # fmt: skip
    if not any(shards.settings.values()):
        raise InvalidRequest("No matrix of this model is quantized so, as groups divide the rows of none: nothing is "
                             "there to calibrate.", "Leave {calibrate} out, or take another form.")  # fmt: skip
    sample = given_text.read_sample(
        text_path(form.calibrate), tokenizer.tokenizer, config, token_count(form.calibrate_tokens)
    )
    work = stages.Calibration(config, matched.tensors, shards.settings, shards.dtype, sample.windows)
    return Calibration(config, matched, shards, sample, work)


def output_directory(output: str | Path | None, source: Path, form: Form, kept: Quantization | None = None) -> Path:
    """The output directory: the one that the caller names, else one beside the source with the form in its name, or
    with the setting that is `kept` from the source."""
    # abspath and not resolve, which would follow a link that is to be refused later
    if output is None:
        return form.default_output(source, kept)
    return Path(os.path.abspath(named_path("output", output)))  # noqa: PTH100


def beside(source: Source) -> Path:
    """The path that a default output lies beside: the source's directory itself, or what a file in it is called; for
    one in the hub's cache, which may remove what lies beside it, the repository's name in the working directory."""
    if found := snapshot_at(source.directory):
        return Path(source.name or found.repository.rpartition("/")[2])
    return source.directory / source.name if source.name else source.directory


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    force: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    verifying: Progress | None = None,
    calibrating: Progress | None = None,
    **options: Any,
) -> Conversion:
    """Converts `source`, a checkpoint's directory or weights file in any layout that docs/converting.md lists.

    Options: unquantized in `dtype` (float16, float32, by default bfloat16) unless `bits` (2, 3, 4, 5, 6, 8; in groups
    of `group_size` 32, 64, 128), `mode` (affine, mxfp4, mxfp8, nvfp4), `recipe` (mixed-2-4, mixed-3-5, mixed-4-6:
    more bits for the matrices that need them) or `target_bits` (bits mixed so that a weight has at most so many, scales
    included) is given. Where none of the five is, matrices that the source has in few bits, in a form that MLX can
    keep, stay so: docs/converting.md lists these forms. `calibrate` (true, or a UTF-8 text file or a directory of them)
    chooses the quantized numbers so that they fit a text, of which `calibrate_tokens` tokens are read if it has so
    many, 65,536 by default, and lose less than by rounding; it takes minutes to hours. Weights that are NaN or infinite
    are refused unless `allow_nonfinite` is true. `tokenizer` is a tokenizer.json, a tokenizer.model or a directory with
    one; by default the source's own. Files hold up to `max_shard_size` GB, by default 5.
    `rope_factor` is the factor of Llama 3's RoPE scaling, which Meta's own files leave out: by default 32 in the sizes
    of Llama 3.2, else 8. With `unshare` weights that several layers share (MobileLLM's layer sharing, MobiLlama) are
    written for each of them: a plain Llama, which mlx-lm loads, too. Without `output` the result lies beside the
    source, or in the working directory where the source lies in the hub's cache. `verify` compares the result with the
    source before the result gets its name.
    `progress` is called with (source bytes done, in all), `verifying` with (layers done, in all), `calibrating` with
    (parts of the calibration done, in all).

    The output appears whole or not at all. After a run was killed, a call with the same arguments keeps the weights
    that were written, once they are read back and found right; of a calibration it keeps what is done however the run
    before ended. The output's conversion.json says what it was made of,
    its README.md what it is.

    Where this process has a model loaded, the conversion takes its turn on the thread that computes, and requests to
    the model wait for its end. Raises InvalidRequest, NotFound, MissingTokenizer, BadCheckpoint, Unsupported,
    TargetExists, DiskFull, and VerificationFailed; Forked in a process that was forked from one with a model.
    """
    return on_device(
        lambda relay: plan(source, output, **options).run(
            force, verify, relay(progress), relay(verifying), relay(calibrating)
        )
    )


def shard_bytes(gigabytes: float | None) -> int:
    """The size limit of a weights file, in bytes. Raises InvalidRequest."""
    gigabytes = SHARD_GB if gigabytes is None else gigabytes
    if not MIN_SHARD_GB <= real_number("max_shard_size", gigabytes) <= MAX_SHARD_GB:
        raise InvalidRequest(f"max_shard_size is {gigabytes}; it must be {MIN_SHARD_GB:g} to {MAX_SHARD_GB:g} GB.")
    return int(gigabytes * 1e9)
