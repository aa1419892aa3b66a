"""The threads of numpy's BLAS, which is another one than MLX's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from numpy.linalg import _umath_linalg

from elm_mlx.device.blas import BLAS_THREADS

# The functions that read and set their number: those of numpy's own wheels, or of a BLAS that it was built for.
FUNCTIONS = (("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"), *BLAS_THREADS.values())


@cache
def numpy_threads() -> tuple[Callable[[], int], Callable[[int], object]]:
    """(a function that reads how many threads numpy's BLAS takes for a product, one that sets it). For a BLAS without
    such functions, such as Apple's, the number is one, and nothing is set."""
    linked = ctypes.CDLL(_umath_linalg.__file__)  # finds the functions of what that module needs, too
    for get, set_number in FUNCTIONS:
        if hasattr(linked, get):
            return getattr(linked, get), getattr(linked, set_number)
    return lambda: 1, lambda _: None


@contextmanager
def numpy_on_one_thread() -> Iterator[None]:
    """Has numpy's BLAS compute each product on the thread that asks for it."""
    get, set_number = numpy_threads()
    before = get()
    set_number(1)
    try:
        yield
    finally:
        set_number(before)
