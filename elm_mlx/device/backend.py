"""MLX, or the sentence that says which extra brings its backend; every public entry imports this first."""

from __future__ import annotations

from elm_mlx.errors import MissingBackend

try:
    import mlx.core as mx
except ImportError as error:
    raise MissingBackend(
        "MLX has no backend on this machine. Install one with an extra: pip install 'elm-mlx[cpu]' (or cuda12, "
        f"cuda13 with an NVIDIA GPU); from a checkout: pip install -e '.[cpu]'. MLX says: {error}"
    ) from error

__all__ = ["mx"]
