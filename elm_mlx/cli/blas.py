"""Which BLAS MLX's CPU backend computes with on Linux, and how a command brings MLX."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import elm_mlx
from elm_mlx.cli.interrupts import signals_held_back
from elm_mlx.errors import NotFound


def prefer_fast_blas() -> None:
    """Loads a fast BLAS where there is one, and MLX; ELM_MLX_BLAS=reference leaves MLX's own BLAS. A command that
    computes calls this before anything imports MLX, since afterwards it has no effect."""
    if "mlx.core" in sys.modules:
        return
    if os.environ.get("ELM_MLX_BLAS") != "reference":
        with suppress(NotFound):
            elm_mlx.use_fast_blas()
    # The import of MLX would lose the exceptions that signals raise, or fail with them as with an ImportError.
    with signals_held_back(), suppress(ImportError):  # where there is no MLX, whoever needs it says so
        import mlx.core  # noqa: F401
