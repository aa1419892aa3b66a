"""Conversion: a checkpoint as it was published goes in, an MLX directory in mlx-lm's layout comes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from elm_mlx.arguments import Progress, real
from elm_mlx.convert import tokenizer as tokenizer_files
from elm_mlx.convert.form import DTYPES, Form
from elm_mlx.convert.job import Conversion, Job
from elm_mlx.convert.keymap import match
from elm_mlx.convert.output import pipeline
from elm_mlx.convert.output.config_file import output_config
from elm_mlx.convert.output.path_guards import check_places
from elm_mlx.convert.sources import open_source
from elm_mlx.device.backend import mx as _mx  # noqa: F401  first, for its sentence where MLX has no backend
from elm_mlx.errors import InvalidRequest
from elm_mlx.library.hub_cache import snapshot_at

MIN_SHARD_GB, SHARD_GB, MAX_SHARD_GB = 1e-6, 5.0, 1e6

__all__ = ["Conversion", "convert", "plan"]


def plan(
    source: str | Path,
    output: str | Path | None = None,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    dtype: str = "bfloat16",
    tokenizer: str | Path | None = None,
    max_shard_size: float | None = None,
    rope_factor: float | None = None,
) -> Job:
    """What `convert` would do with the same arguments: all checked and nothing written. Raises as `convert`."""
    form, file_bytes = Form(bits, group_size, mode, recipe, dtype), shard_bytes(max_shard_size)
    opened = open_source(Path(source), rope_factor=rope_factor)
    quantization = form.quantization(opened.config)
    planned = pipeline.plan(opened.config, quantization, DTYPES[dtype], file_bytes)
    files = None if max_shard_size is None else list(planned.files)
    if tokenizer is None and opened.is_already(quantization, DTYPES[dtype], files):
        raise InvalidRequest(f"{source} is an MLX model of that kind already. Run it as it is.")
    # abspath, as resolve would follow a link that is refused further on
    target = Path(os.path.abspath(output)) if output else form.beside(outside_the_hub(opened.directory))  # noqa: PTH100
    given = Path(tokenizer) if tokenizer else None
    tokens = tokenizer_files.prepare(opened.directory, given, opened.config)
    check_places(target, [*opened.files, *tokens.files], opened.where, opened.directory, given or opened.directory)
    config = output_config(opened.raw_config, opened.config, quantization, dtype)
    return Job(
        source=opened,
        target=target,
        matched=match(opened.config, opened.family_layout, opened.tensors, opened.where),
        tokenizer=tokens,
        config=config,
        plan=planned,
        options={"quantization": config.get("quantization"), "dtype": dtype, "max_shard_size": file_bytes / 1e9}
        | ({} if rope_factor is None else {"rope_factor": float(rope_factor)}),
    )


def outside_the_hub(directory: Path) -> Path:
    """The directory; for one in the hub's cache, where the hub may remove what lies beside it, its name here."""
    found = snapshot_at(directory)
    return Path(found.repository.rpartition("/")[2]) if found else directory


def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    force: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    verifying: Progress | None = None,
    **options: Any,
) -> Conversion:
    """Converts `source`, a checkpoint's directory or weights file in any layout that docs/converting.md lists.

    Options: unquantized in `dtype` (bfloat16, float16, float32) unless `bits` (2, 3, 4, 5, 6, 8; in groups of
    `group_size` 32, 64, 128), `mode` (affine, mxfp4, mxfp8, nvfp4) or `recipe` (mixed-2-4, mixed-3-5, mixed-4-6: more
    bits where they count) is given. `tokenizer` is a tokenizer.json, a tokenizer.model or a directory with one; by
    default the source's own. Files hold up to `max_shard_size` GB, 5 unless it is given.
    `rope_factor` is Llama 3's RoPE scaling where Meta's own files do not say it: 32 in the sizes of 3.2, else 8.
    Without `output` it writes beside the source, or here where that lies in the hub's cache. `verify` runs the result
    against the source before it gets its name. `progress` hears (source bytes done, in all), `verifying` (layers done,
    in all).

    The output appears whole or not at all. After a kill the same call goes on with the weights that were written, once
    they are read back and found right. conversion.json in it says what it was made of, README.md what it is.

    Raises InvalidRequest, NotFound, MissingTokenizer, BadCheckpoint, Unsupported, TargetExists, DiskFull, and
    VerificationFailed.
    """
    return plan(source, output, **options).run(force, verify, progress, verifying)


def shard_bytes(gigabytes: float | None) -> int:
    """The size limit of a file. Raises InvalidRequest."""
    gigabytes = SHARD_GB if gigabytes is None else gigabytes
    if not MIN_SHARD_GB <= real("max_shard_size", gigabytes) <= MAX_SHARD_GB:
        raise InvalidRequest(f"max_shard_size is {gigabytes}; it must be {MIN_SHARD_GB:g} to {MAX_SHARD_GB:g} GB.")
    return int(gigabytes * 1e9)
