"""`compile_function`, where models look for it."""

from elm_mlx.device.compile import compile_function

__all__ = ["compile_function"]
