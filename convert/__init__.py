"""Conversion: a checkpoint as it was published goes in, an MLX directory in mlx-lm's layout comes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from elm_mlx.arguments import Progress, real
from elm_mlx.backend import mx
from elm_mlx.convert import pipeline, tokenizer_files
from elm_mlx.convert.config_file import output_config
from elm_mlx.convert.job import Conversion, Job
from elm_mlx.convert.keymap import match
from elm_mlx.convert.source import open_source
from elm_mlx.errors import InvalidRequest, TargetExists
from elm_mlx.quantization import QUANTIZATION_MODES, Quantization

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
MIN_SHARD_GB, MAX_SHARD_GB = 1e-6, 1e6
SHORT_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}

__all__ = ["Conversion", "convert", "plan"]


def plan(
    source: str | Path,
    output: str | Path | None = None,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str | None = None,
    dtype: str = "bfloat16",
    tokenizer: str | Path | None = None,
    max_shard_size: float = 5.0,
    rope_factor: float | None = None,
) -> Job:
    """What `convert` would do with the same arguments: all checked and nothing written. Raises as `convert`."""
    quantization = requested_quantization(bits, group_size, mode)
    if dtype not in list(DTYPES):
        raise InvalidRequest(f"dtype is {dtype!r}; it is one of {', '.join(DTYPES)}.")
    file_bytes = shard_bytes(max_shard_size)
    opened = open_source(Path(source), rope_factor=rope_factor)
    if tokenizer is None and opened.is_already(quantization, DTYPES[dtype]):
        raise InvalidRequest(f"{source} is an MLX model of that kind already. Run it as it is.")
    # abspath, as resolve would follow a link that is refused further on
    target = Path(os.path.abspath(output)) if output else default_output(opened.directory, quantization, dtype)  # noqa: PTH100
    for place in (opened.directory, Path(tokenizer or opened.directory)):
        refuse_overlap(place, target)
    config = output_config(opened.raw_config, opened.config, quantization, dtype)
    return Job(
        source=opened,
        target=target,
        matched=match(opened.config, opened.family_layout, opened.tensors, opened.where),
        tokenizer=tokenizer_files.prepare(opened.directory, Path(tokenizer) if tokenizer else None, opened.config),
        config=config,
        plan=pipeline.plan(opened.config, quantization, DTYPES[dtype], file_bytes),
        options={"quantization": config.get("quantization"), "dtype": dtype, "max_shard_size": float(max_shard_size)},
    )


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
    `group_size` 32, 64, 128) or `mode` (affine, mxfp4, mxfp8, nvfp4) is given. `tokenizer` is a tokenizer.json, a
    tokenizer.model or a directory with one; by default the source's own. Files hold up to `max_shard_size` GB.
    `rope_factor` is Llama 3's RoPE scaling where Meta's own files do not say it: 32 in the sizes of 3.2, else 8.
    Without `output` it writes beside the source. `verify` runs the result against the source before it gets its name.
    `progress` hears (source bytes done, in all), `verifying` (layers done, in all).

    The output appears whole or not at all. After a kill the same call goes on with the weights that were written, once
    they are read back and found right. conversion.json in it says what it was made of, README.md what it is.

    Raises InvalidRequest, NotFound, MissingTokenizer, BadCheckpoint, Unsupported, TargetExists, DiskFull, and
    VerificationFailed.
    """
    return plan(source, output, **options).run(force, verify, progress, verifying)


def shard_bytes(gigabytes: float) -> int:
    """The size limit of a file. Raises InvalidRequest."""
    if not MIN_SHARD_GB <= real("max_shard_size", gigabytes) <= MAX_SHARD_GB:
        raise InvalidRequest(f"max_shard_size is {gigabytes}; it must be {MIN_SHARD_GB:g} to {MAX_SHARD_GB:g} GB.")
    return int(gigabytes * 1e9)


def requested_quantization(bits: int | None, group_size: int | None, mode: str | None) -> Quantization | None:
    """The quantization that the options ask for, or None. Raises InvalidRequest for what MLX does not have."""
    if mode not in (None, *QUANTIZATION_MODES):
        raise InvalidRequest(f"mode is {mode!r}; it is one of {', '.join(QUANTIZATION_MODES)}.")
    if mode not in (None, "affine"):
        if bits is not None or group_size is not None:
            raise InvalidRequest(f"--mode {mode} fixes its bits and group size; leave --bits and --group-size out.")
        return Quantization.from_dict({"mode": mode})
    if bits is None and mode is None:
        if group_size is not None:
            raise InvalidRequest("--group-size means nothing without --bits: nothing would be quantized.")
        return None
    known_bits, known_groups = QUANTIZATION_MODES["affine"]
    for name, value, known in (("bits", bits, known_bits), ("group_size", group_size, known_groups)):
        if value not in (None, *known):
            raise InvalidRequest(f"{name} is {value!r}; it is one of {', '.join(map(str, known))}.")
    return Quantization.from_dict({"mode": "affine", "bits": bits, "group_size": group_size})


def default_output(source: Path, quantization: Quantization | None, dtype: str) -> Path:
    """Beside the source, the bits in the name: OpenELM-270M -> OpenELM-270M-mlx-4bit."""
    if quantization is None:
        kind = SHORT_NAMES[dtype]
    else:
        kind = f"{quantization.bits}bit" if quantization.mode == "affine" else quantization.mode
    source = source.resolve()
    return source.with_name(f"{source.name}-mlx-{kind}")


def refuse_overlap(source: Path, target: Path) -> None:
    """With --force the target is replaced whole, so it must not be what is read, nor hold it."""
    if source.resolve().is_relative_to(target.resolve()):
        raise TargetExists(f"{target} is or holds the source {source}, never written over. Name another --output.")
