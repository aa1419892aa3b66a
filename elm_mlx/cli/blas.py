"""Which BLAS MLX's CPU backend computes with on Linux."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import elm_mlx
from elm_mlx.errors import NotFound


def prefer_fast_blas() -> None:
    """Loads a fast BLAS where there is one; ELM_MLX_BLAS=reference leaves MLX's own. A command that computes calls this
    before anything imports MLX, since afterwards it has no effect."""
    if os.environ.get("ELM_MLX_BLAS") != "reference" and "mlx.core" not in sys.modules:
        with suppress(NotFound):
            elm_mlx.use_fast_blas()
