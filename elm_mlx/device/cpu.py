"""All policy for MLX's CPU backend, the stand-in where there is no GPU; nothing else decides by it.

Per weight, its kernels for 4 bits in bfloat16 are nine times slower than float32, and those for float16 slower too
(docs/numerics.md), so the policy computes in float32 and expands low-bit weights while that fits. It compiles no
kernels unless asked: MLX builds them with g++ into a shared temporary folder, where the first build takes seconds and a
truncated file, a foreign one or a compiler that cannot build ends every run after it.

A stream of that backend computes one thing after the other, and only BLAS takes more than a core, which for a single
row gains next to nothing. So each of two to four cores gets a stream: of a prompt a chunk, of a token's large products
a share of the rows (figures: benchmarks/LOG.md).

On Linux that backend brings the reference BLAS. Symbols resolve in the order in which libraries were loaded, so a
fast one loaded before MLX takes its place (`use_fast_blas`); this module itself imports MLX only when it plans.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from elm_mlx.config import ModelConfig
from elm_mlx.device import memory as machine
from elm_mlx.device.costs import parameter_count
from elm_mlx.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    import mlx.core as mx

    Stream = mx.Device | mx.ThreadLocalStream  # where a thread's own first one, or another of its own, runs

POLICIES = ("auto", "plain", "compiled")
OPENBLAS = "libopenblas.so.0"  # Debian's and Ubuntu's libopenblas0
PREFILL_CHUNK = 256  # attention here computes the half that is masked, too: smaller chunks have less of it
MOST_STREAMS = 4  # with more cores nothing was measured: they are left to the BLAS
LARGE = 4 << 20  # bytes of a matrix: below, handing a share to another stream costs more than it gains
FEW = 64  # rows of activations: from so many on, as the engine's LEAST_CHUNK has, chunks keep the cores busy instead
# MKL's file, or OpenBLAS's own, to which Debian's name is a link; those that come in wheels have a hash in the name.
FAST_BLAS = re.compile(r"libmkl_rt\.so|libopenblas[op]?(-r[\d.]+)?\.so")
BLAS_THREADS = {  # what tells and takes the number of threads, by the beginning of the file's name
    "libmkl_rt.so": ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    "libopenblas.so": ("openblas_get_num_threads", "openblas_set_num_threads"),
}
NOTICE = "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac."


@dataclass(frozen=True)
class Plan:
    """What loading does: `dtype` to compute in (None: as stored), whether to `expand` quantized weights, whether
    the step may be `compiled`, whether that is `doubtful` (see `runs`), how many ids of a prompt are read at once
    (None: as the engine likes), the `streams` that share the work (none: MLX's own does all), and the `notice` a
    program may show."""

    dtype: mx.Dtype | None = None
    expand: bool = False
    compiled: bool = True
    doubtful: bool = False
    prefill_chunk: int | None = None
    streams: tuple[Stream, ...] = ()
    notice: str | None = None


def plan(config: ModelConfig, policy: str = "auto") -> Plan:
    """The plan for this device. On the CPU, too, "plain" computes as stored, and "compiled" does what a GPU would: both
    on MLX's one stream. Raises InvalidRequest for others.
    """
    if policy not in POLICIES:
        raise InvalidRequest(f"cpu_policy is {policy!r}; it is one of {', '.join(POLICIES)}.")
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.gpu:
        return Plan()
    streams = _shared_streams() if policy == "auto" else _no_streams()
    if policy == "compiled":
        return Plan(doubtful=True, prefill_chunk=PREFILL_CHUNK, notice=NOTICE)
    fits = 4 * parameter_count(config) <= machine.free_memory() / 2
    if policy == "plain" or (config.quantization is None and not fits):
        return Plan(compiled=False, prefill_chunk=PREFILL_CHUNK, streams=streams, notice=NOTICE)
    expand = config.quantization is not None and fits
    return Plan(mx.float32, expand, compiled=False, prefill_chunk=PREFILL_CHUNK, streams=streams, notice=NOTICE)


class SharedLinear:
    """A `models.layers.Matrix` of floats, [out, in]: for few rows of activations each stream multiplies its share."""

    def __init__(self, weight: mx.array, streams: Sequence[Stream]) -> None:
        self.weight, self.streams = weight, streams if weight.nbytes >= LARGE else ()
        self.ends = [len(weight) * i // len(streams) for i in range(1, len(streams))]

    def __call__(self, x: mx.array) -> mx.array:
        import mlx.core as mx

        if not self.streams or x.size >= FEW * x.shape[-1]:
            return x @ self.weight.T  # [..., in] -> [..., out]
        shares = zip(mx.split(self.weight.T, self.ends, axis=1), self.streams, strict=True)
        return mx.concatenate([mx.matmul(x, share, stream=stream) for share, stream in shares], axis=-1)

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of `ids`: [B, L] -> [B, L, in]."""
        return self.weight[ids]


def _shared_streams() -> tuple[Stream, ...]:
    """A stream for each thread that the BLAS would take, which now takes one in each; none if they are one or many."""
    threads, tell = _blas_threads()
    if not 1 < threads <= MOST_STREAMS:
        return _no_streams()
    tell(1)
    return _streams(threads)


def _no_streams() -> tuple[()]:
    """None, and the BLAS takes its threads again."""
    threads, tell = _blas_threads()
    tell(threads)
    return ()


@cache
def _streams(count: int) -> tuple[Stream, ...]:
    """MLX's own and others, made once, and by MLX anew in every thread that uses them."""
    import mlx.core as mx

    return mx.Device(mx.cpu), *(mx.new_thread_local_stream(mx.cpu) for _ in range(count - 1))


@cache
def _blas_threads() -> tuple[int, Callable[[int], object]]:
    """(the threads that the BLAS takes unasked, how to tell it another number). The reference one computes in the
    caller's, so there the cores count; one that others loaded, or that does not say, counts as one and is let be."""
    name = fast_blas()
    if name is None and sys.platform.startswith("linux"):
        return len(os.sched_getaffinity(0)), lambda _: None
    for beginning, (tells, takes) in BLAS_THREADS.items():
        if name in _loaded and name.startswith(beginning) and hasattr(_loaded[name], tells):
            return getattr(_loaded[name], tells)(), getattr(_loaded[name], takes)
    return 1, lambda _: None


def runs(step: Callable[[], mx.array]) -> bool:
    """Whether MLX has the kernels of a compiled step, or can build them. The errors of its compiler and of its folder
    are RuntimeErrors, from whatever evaluates first."""
    import mlx.core as mx

    try:
        mx.eval(step())
    except RuntimeError:
        return False
    return True


_loaded: dict[str, ctypes.CDLL] = {}  # by `use_fast_blas`


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
            _loaded[library.name] = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError:  # not installed, or not for this machine: the next one
            continue
        return library.name
    raise NotFound("There is no fast BLAS on this machine. Install one: pip install 'elm-mlx[fast-cpu]' (x86-64), or "
                   "apt install libopenblas0.")  # fmt: skip


def fast_blas_files() -> Iterator[Path]:
    """What may be loaded, the fastest first: MKL where pip puts it, OpenBLAS where the loader finds it."""
    with suppress(FileNotFoundError):
        Path.cwd()  # where that was deleted, loading MKL ends the process
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
            yield from sorted(Path(prefix, "lib").glob("libmkl_rt.so*"), reverse=True)
    yield Path(OPENBLAS)


def fast_blas() -> str | None:
    """The fast BLAS that this process has loaded, by its file's name; None means the reference one."""
    if _loaded:
        return next(iter(_loaded))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()  # any file's name may be among them
    names = {line.rpartition("/")[2] for line in lines}
    return next((name for name in sorted(names) if FAST_BLAS.match(name)), None)
