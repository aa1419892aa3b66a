"""What is installed, what is slow, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import elm_mlx
from elm_mlx.device.backend import backend_name
from elm_mlx.device.memory import memory_limit, total_memory
from elm_mlx.errors import ElmError
from elm_mlx.files import free_space, nearest_existing, readable_size
from elm_mlx.library import copies, hub_cache
from elm_mlx.library.hub_errors import offline_switch

OK, SLOW, BROKEN = "ok", "slow", "broken"
SLOW_SELF_TEST_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was examined: whether it is ok, slow or broken, and what to do where it is not ok."""

    name: str
    status: str
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Runs every check, in the order in which a newcomer would ask. The home directory is written as ~, so that the
    findings can be shown to others."""
    home = os.path.expanduser("~")  # noqa: PTH111, which raises where there is none
    found = [check() for check in CHECKS]
    return found if len(home) < 2 else [replace(one, detail=one.detail.replace(home, "~")) for one in found]


def examine_python() -> Finding:
    where = "" if sys.prefix != sys.base_prefix else " (no virtual environment)"
    return Finding("Python", OK, f"{platform.python_version()} on {platform.platform()}{where}, {sys.executable}")


def examine_packages() -> Finding:
    names = ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "tokenizers", "huggingface_hub", "lm-eval")
    found = [f"{name} {installed}" for name in names if (installed := version_of(name))]
    return Finding("packages", OK, ", ".join([f"elm-mlx {elm_mlx.__version__}", *found]))


def examine_guests() -> Finding:
    """Says whether models of other families run here, and what loading one does to the process. Imports nothing."""
    if not (installed := version_of("mlx-lm")):
        detail = "not installed: llama and openelm run without it, other families need it"
        return Finding("mlx-lm", OK, f"{detail} (pip install 'elm-mlx[mlx-lm]')")
    return Finding("mlx-lm", OK, f"{installed}, imported where a model of another family is loaded: that takes seconds "
                   "and 70 MB, imports transformers, sets TRANSFORMERS_NO_ADVISORY_WARNINGS, and lowers the most files "
                   "that the process may open to 4,096")  # fmt: skip


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def examine_backend() -> Finding:
    found = backend_name()
    if found.startswith("CPU"):
        return Finding("MLX backend", SLOW, found, "Right results, but slow: MLX is made for Apple silicon.")
    return Finding("MLX backend", OK, found)


def examine_blas() -> Finding:
    if not sys.platform.startswith("linux") or not backend_name().startswith("CPU"):
        return Finding("BLAS", OK, "MLX needs none")
    if found := elm_mlx.fast_blas():
        return Finding("BLAS", OK, found)
    advice = "pip install 'elm-mlx[fast-cpu]' (x86-64) or apt install libopenblas0: many times faster prompts."
    return Finding("BLAS", SLOW, "the reference one that comes with MLX", advice)


def examine_kernels() -> Finding:
    """Names the compiler and the temporary folder with which MLX's CPU backend builds kernels. elm-mlx needs them only
    for `cpu_policy` "compiled", which `bench --compare` takes."""
    if not backend_name().startswith("CPU"):
        return Finding("kernels", OK, "come with MLX")
    folder, compiler = Path(tempfile.gettempdir()) / "mlx", shutil.which("g++")
    asked = f"needed only for bench --compare and --cpu-policy compiled; compiler {compiler or 'none'}"
    return Finding("kernels", OK, f"{asked}, MLX's folder {folder}")


def examine_memory() -> Finding:
    limit = memory_limit()
    detail = f"{readable_size(total_memory())} in the machine, {readable_size(limit)} for a model now"
    if limit < 2e9:
        return Finding("memory", SLOW, detail, "Close other programs; openelm-270m in 4 bits still fits.")
    return Finding("memory", OK, detail)


def examine_caches() -> Finding:
    """Looks whether models can be kept: elm-mlx's own folder and Hugging Face's cache must be writable."""
    own, theirs = copies.root(), hub_cache.cache_directory()
    unwritable = {variable: path for variable, path in (("ELM_MLX_CACHE", own), (hub_cache.cache_variable(), theirs))
                  if not is_writable(path)}  # fmt: skip
    if unwritable:
        advice = f"Set {' and '.join(unwritable)} to a folder of yours."
        return Finding("caches", BROKEN, f"no permission to write {', '.join(map(str, unwritable.values()))}", advice)
    places = {"own": own, "Hugging Face": theirs}
    free = [f"{name} {path} ({readable_size(free_space(path))} free)" for name, path in places.items()]
    return Finding("caches", OK, ", ".join(free))


def is_writable(path: Path) -> bool:
    try:
        place = nearest_existing(path)
        return place.is_dir() and os.access(place, os.W_OK)
    except OSError:  # a folder on the path that cannot be entered
        return False


def examine_network() -> Finding:
    token = "a token is set" if has_token() else "no token: gated models ask for one (HF_TOKEN)"
    return Finding("hub", OK, f"{'switched off by the environment' if offline_switch() else 'allowed'}, {token}")


def has_token() -> bool:
    named = os.environ.get("HF_TOKEN_PATH")
    file = Path(named) if named else hub_cache.cache_directory().parent / "token"
    return any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")) or os.access(file, os.R_OK)


def run_self_test() -> Finding:
    """Loads the demo and times the first 24 tokens of a story."""
    begun = time.perf_counter()
    try:
        done = elm_mlx.load().generate("Once upon a time", max_tokens=24)
    except ElmError as error:
        return Finding("self-test", BROKEN, str(error), "Install elm-mlx again.")
    spent = time.perf_counter() - begun
    rate = done.stats.decode_tokens_per_s or 0.0
    status = OK if spent < SLOW_SELF_TEST_S else SLOW
    return Finding("self-test", status, f"the demo loads and writes 24 tokens in {spent:.2f} s ({rate:.0f} tokens/s)")


CHECKS: tuple[Callable[[], Finding], ...] = (
    examine_python, examine_packages, examine_backend, examine_blas, examine_kernels, examine_memory, examine_caches,
    examine_network, examine_guests, run_self_test,
)  # fmt: skip
