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

__all__ = ["backend_name", "mx"]


def backend_name() -> str:
    """The kind of device that MLX computes on here, with the device's own name."""
    kind = "Metal" if mx.metal.is_available() else "CUDA" if mx.cuda.is_available() else "CPU"
    return f"{kind}, {mx.device_info().get('device_name', 'unnamed')}"
