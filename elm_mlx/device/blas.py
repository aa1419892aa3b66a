"""The BLAS that MLX's CPU backend computes with on Linux: finding a fast one, loading it, setting its threads.

MLX brings the reference BLAS there. The system's loader resolves a symbol in the library that was loaded first, so a
fast BLAS takes the place of MLX's own if it is loaded before MLX (`use_fast_blas`). This module does not import MLX.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from elm_mlx.errors import InvalidRequest, NotFound

OPENBLAS = "libopenblas.so.0"  # Debian's and Ubuntu's libopenblas0
# MKL's file, or OpenBLAS's own, to which Debian's name is a link; those that come in wheels have a hash in the name.
FAST_BLAS = re.compile(r"libmkl_rt\.so|libopenblas[op]?(-r[\d.]+)?\.so")
BLAS_THREADS = {  # the functions that read and set the number of threads, by the beginning of the file's name
    "libmkl_rt.so": ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    "libopenblas.so": ("openblas_get_num_threads", "openblas_set_num_threads"),
}

_loaded: dict[str, ctypes.CDLL] = {}  # by `use_fast_blas`


def use_fast_blas() -> str | None:
    """Loads a fast BLAS for MLX's CPU backend on Linux: Intel's MKL (the `fast-cpu` extra), else the system's OpenBLAS.

    Returns the name of its file; None on other systems, whose MLX needs no other BLAS. Call this function before
    anything imports MLX: it raises InvalidRequest where MLX already uses the reference BLAS, NotFound where there is no
    fast BLAS.
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
        except OSError:  # not installed, or not for this machine: try the next one
            continue
        return library.name
    raise NotFound("There is no fast BLAS on this machine. Install one: pip install 'elm-mlx[fast-cpu]' (x86-64), or "
                   "apt install libopenblas0.")  # fmt: skip


def fast_blas_files() -> Iterator[Path]:
    """The files that may be a fast BLAS, the fastest first: MKL where pip puts it, OpenBLAS where the loader looks."""
    with suppress(FileNotFoundError):
        Path.cwd()  # where the working directory was deleted, loading MKL ends the process
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix)):
            yield from sorted(Path(prefix, "lib").glob("libmkl_rt.so*"), reverse=True)
    yield Path(OPENBLAS)


def fast_blas() -> str | None:
    """The file name of the fast BLAS that this process loaded; None means MLX's own (on Linux the reference one)."""
    if _loaded:
        return next(iter(_loaded))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()  # a file's name need not be UTF-8
    names = {line.rpartition("/")[2] for line in lines}
    return next((name for name in sorted(names) if FAST_BLAS.match(name)), None)


@cache
def blas_threads() -> tuple[int, Callable[[int], object]]:
    """(the number of threads that the BLAS uses by default, a function that sets another number).

    For the reference BLAS, which has no threads of its own, the number is that of the cores, since each could call it.
    A BLAS that this process did not load through `use_fast_blas`, or that has no such functions, counts as one thread,
    and the function sets nothing.
    """
    name = fast_blas()
    if name is None and sys.platform.startswith("linux"):
        return len(os.sched_getaffinity(0)), lambda _: None
    for beginning, (get, set_number) in BLAS_THREADS.items():
        if name in _loaded and name.startswith(beginning) and hasattr(_loaded[name], get):
            return getattr(_loaded[name], get)(), getattr(_loaded[name], set_number)
    return 1, lambda _: None
