"""Which BLAS MLX's CPU backend computes with on Linux, and how a command brings MLX."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import elm_mlx
from elm_mlx.errors import NotFound

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def prefer_fast_blas() -> None:
    """Loads a fast BLAS where there is one, and MLX; ELM_MLX_BLAS=reference leaves MLX's own BLAS. A command that
    computes calls this before anything imports MLX, since afterwards it has no effect."""
    if "mlx.core" in sys.modules:
        return
    if os.environ.get("ELM_MLX_BLAS") != "reference":
        with suppress(NotFound):
            elm_mlx.use_fast_blas()
    with signals_held_back(), suppress(ImportError):  # where there is no MLX, whoever needs it says so
        import mlx.core  # noqa: F401


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Has signals that end a command come after what is inside. The import of MLX would lose the exceptions that their
    handlers raise, or fail with them as with an ImportError."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number))
              for number in ENDING if callable(signal.getsignal(number))}  # fmt: skip
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
    if came:
        signal.raise_signal(came[0])
