"""`mx.compile`, where functions come and go in several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import mlx.core as mx

SERIALS = count()


def compile_function(
    function: Callable[..., Any], shapeless: bool = False, inputs: list[mx.array] | None = None
) -> Callable[..., Any]:
    """Compiles a function of arrays. It is never answered by what another function was compiled to. What `inputs` holds
    when it is called is one more input; all other arrays that it finds outside its arguments are constants.

    MLX looks up what it compiled by the function's address. When a function is freed, MLX forgets it only in the thread
    that called it last (0.32.4; 0.32.0: in the thread that frees it). In another thread that called it, the next
    function at this address would be answered by the old one. A serial number tells the two apart, since MLX looks up
    the values of arguments that are no arrays, too.
    """

    def numbered(_serial: int, *arrays: mx.array) -> Any:
        return function(*arrays)

    return partial(mx.compile(numbered, inputs=inputs, shapeless=shapeless), next(SERIALS))


@contextmanager
def uncompiled() -> Iterator[None]:
    """Lets nothing be compiled that is called inside: mlx-lm's classes compile some functions, for which MLX's CPU
    backend needs a compiler and seconds. For the device thread, the only one that computes."""
    mx.disable_compile()
    try:
        yield
    finally:
        if "MLX_DISABLE_COMPILE" not in os.environ:
            mx.enable_compile()
