"""What the figures belong to: the machine, the software, the model."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

import elm_mlx
from elm_mlx import LanguageModel
from elm_mlx.bench.cases import DECODE, Case
from elm_mlx.device.backend import backend_name
from elm_mlx.device.memory import total_memory
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.models.guest import Guest
from elm_mlx.models.pipelined import LowerStage
from elm_mlx.store.load import runnable_weight_files
from elm_mlx.store.weights import DTYPE_NAMES, read_header

# Variables that MLX reads when it is imported: how much goes into one of Metal's command buffers.
BUDGET = ("MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER")


def machine_facts() -> dict[str, Any]:
    """Chip, cores, memory, system, the BLAS of MLX's CPU backend, and the command-buffer budget where one is set;
    nothing that names whose machine it is."""
    return {
        "device": backend_name(),
        "cores": os.cpu_count(),
        "memory_bytes": total_memory(),
        "system": platform.platform(),
        "blas": elm_mlx.fast_blas() or "MLX's own",
        "budget": " ".join(f"{name}={os.environ[name]}" for name in BUDGET if name in os.environ) or "MLX's own",
    }


def software_facts() -> dict[str, str]:
    """The versions of elm-mlx, of the packages that it computes with, and of Python, by name."""
    packages = {name: version(name) for name in ("mlx", "numpy")}
    return {"elm-mlx": elm_mlx.__version__, **packages, "python": platform.python_version()}


def model_facts(name: str, lm: LanguageModel) -> dict[str, Any]:
    """What is known of a loaded model, with the type that it computes in."""
    info = elm_mlx.info(lm.directory)
    stored = f"{info.quantization['bits']}-bit" if info.quantization else info.dtype
    return {
        "name": name,
        "family": info.family,
        "parameters": info.parameters,
        "stored_as": stored,
        "bits_per_weight": info.bits_per_weight,
        "weight_bytes": info.weight_bytes,
        "fingerprint": weights_fingerprint(lm.directory),
        "computed_in": str(lm.model.dtype).removeprefix("mlx.core."),
        "compiled": lm.execution.compiled,
    }


def weights_fingerprint(directory: Path) -> str:
    """SHA-256 of every weight file's name and size and of its tensors' names, types and shapes; not of their data, so
    that it is quick at any size, and random models of one shape have equal ones on every machine."""
    digest = hashlib.sha256()
    for file in sorted(runnable_weight_files(directory)):
        digest.update(f"{file} {(directory / file).stat().st_size}\n".encode())
        for name, entry in sorted(read_header(directory / file).items()):
            digest.update(f"{name} {DTYPE_NAMES[entry.dtype]} {entry.shape}\n".encode())
    return digest.hexdigest()


def bytes_per_token(lm: LanguageModel, case: Case, kind: CacheKind = PLAIN) -> int | None:
    """Bytes that a decode step of `case` reads: every weight as it is in memory, except an embedding that is no head,
    and the keys and values that a cache of this kind holds on average. None for a case that does not
    decode, and for a guest."""
    if case.kind != DECODE:
        return None
    if isinstance(lm.model, Guest | LowerStage):
        return None  # what mlx-lm's classes read is not known; a lower stage runs no benchmark
    weights = {id(array): array.nbytes for array in arrays_of(lm.model)}
    looked_up = [] if lm.config.tied else list(arrays_of(lm.model.embedding))
    bits, positions = 8 * lm.model.dtype.size, case.before + case.tokens // 2
    cache = kind.bytes_of(positions, lm.config.kv_bytes_per_token(bits), lm.config.head_dim, bits)
    return sum(weights.values()) - sum(array.nbytes for array in looked_up) + cache


def arrays_of(part: object) -> Iterator[mx.array]:
    """The arrays that a model or a part of it holds, in its attributes and in those of its parts."""
    if isinstance(part, mx.array):
        yield part
    elif isinstance(part, list | tuple):
        for item in part:
            yield from arrays_of(item)
    elif type(part).__module__.startswith("elm_mlx."):
        yield from arrays_of(list(vars(part).values()))
