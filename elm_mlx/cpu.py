"""All policy for MLX's CPU backend, the stand-in where there is no GPU; nothing else decides by it.

Its kernels for 16-bit and quantized products are 9 to 28 times slower than float32 (docs/numerics.md), so the
policy computes in float32 and expands low-bit weights while that fits. It compiles no kernels unless asked: MLX
builds them with g++ into a shared temporary folder, where the first build takes seconds and a truncated file, a
foreign one or a compiler that cannot build ends every run after it.

On Linux that backend brings the reference BLAS. Symbols resolve in the order in which libraries were loaded, so a
fast one loaded before MLX takes its place (`use_fast_blas`); this module itself imports MLX only when it plans.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elm_mlx import machine
from elm_mlx.config import ModelConfig
from elm_mlx.costs import parameter_count
from elm_mlx.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    import mlx.core as mx

POLICIES = ("auto", "plain", "compiled")
OPENBLAS = "libopenblas.so.0"  # Debian's and Ubuntu's libopenblas0
PREFILL_CHUNK = 256  # attention here computes the half that is masked, too: smaller chunks have less of it
NOTICE = "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac."


@dataclass(frozen=True)
class Plan:
    """What loading does: `dtype` to compute in (None: as stored), whether to `expand` quantized weights, whether
    the step may be `compiled`, whether that is `doubtful` (see `runs`), how many ids of a prompt are read at once
    (None: as the engine likes), and the `notice` a program may show."""

    dtype: mx.Dtype | None = None
    expand: bool = False
    compiled: bool = True
    doubtful: bool = False
    prefill_chunk: int | None = None
    notice: str | None = None


def plan(config: ModelConfig, policy: str = "auto") -> Plan:
    """The plan for this device. On the CPU, too, "plain" computes as stored, and "compiled" does what a GPU would.

    Raises InvalidRequest for others.
    """
    if policy not in POLICIES:
        raise InvalidRequest(f"cpu_policy is {policy!r}; it is one of {', '.join(POLICIES)}.")
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.gpu:
        return Plan()
    if policy == "compiled":
        return Plan(doubtful=True, prefill_chunk=PREFILL_CHUNK, notice=NOTICE)
    fits = 4 * parameter_count(config) <= machine.free_memory() / 2
    if policy == "plain" or (config.quantization is None and not fits):
        return Plan(compiled=False, prefill_chunk=PREFILL_CHUNK, notice=NOTICE)
    expand = config.quantization is not None and fits
    return Plan(mx.float32, expand, compiled=False, prefill_chunk=PREFILL_CHUNK, notice=NOTICE)


def runs(step: Callable[[], mx.array]) -> bool:
    """Whether MLX has the kernels of a compiled step, or can build them. The errors of its compiler and of its folder
    are RuntimeErrors, from whatever evaluates first."""
    import mlx.core as mx

    try:
        mx.eval(step())
    except RuntimeError:
        return False
    return True


def use_fast_blas() -> str | None:
    """Loads a fast BLAS for MLX's CPU backend on Linux: Intel's MKL (the `fast-cpu` extra), else the system's OpenBLAS.

    Its file's name; None on other systems, whose MLX needs none. Call it before anything imports MLX: raises
    InvalidRequest where that has happened and the reference BLAS is in use, NotFound where there is no fast one.
    """
    if not sys.platform.startswith("linux"):
        return None
    if found := fast_blas():
        return found
    if "mlx.core" in sys.modules:
        raise InvalidRequest("MLX is imported already and keeps the BLAS that it has. Call elm_mlx.use_fast_blas() "
                             "first in the program.")  # fmt: skip
    for library in fast_blas_files():
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError:  # not installed, or not for this machine: the next one
            continue
        return library.name
    raise NotFound("There is no fast BLAS on this machine. Install one: pip install 'elm-mlx[fast-cpu]' (x86-64), or "
                   "apt install libopenblas0.")  # fmt: skip


def fast_blas_files() -> Iterator[Path]:
    """What may be loaded, the fastest first: MKL where pip puts it, OpenBLAS where the loader finds it."""
    for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
        yield from sorted(Path(prefix, "lib").glob("libmkl_rt.so*"), reverse=True)
    yield Path(OPENBLAS)


def fast_blas() -> str | None:
    """The fast BLAS that this process has loaded, by its file's name; None means the reference one."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    names = {line.rpartition("/")[2] for line in maps.read_text(encoding="utf-8").splitlines()}
    return next((name for name in sorted(names) if name.startswith(("libmkl_rt.so", "libopenblas.so"))), None)
