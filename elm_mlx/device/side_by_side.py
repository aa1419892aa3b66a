"""Computing on several streams of MLX's CPU backend at the same time: what each of them computes stays on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from elm_mlx.device.execution import DeviceStream

Place = AbstractContextManager  # what is asked for inside is computed there
_here = threading.local()


def places(streams: Sequence[DeviceStream], count: int) -> list[Place]:
    """Where to compute `count` things side by side: a stream for each, of which there are enough, or MLX's own for a
    single one, whose large products are shared among all `streams`."""
    return [nullcontext()] if count == 1 else [Beside(stream) for stream in streams[:count]]


def is_beside() -> bool:
    """Whether the other streams have work of their own meanwhile."""
    return getattr(_here, "beside", False)


class Beside:
    """A stream beside others, as a context in which this thread asks for what is computed on it."""

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = mx.stream(stream)

    def __enter__(self) -> None:
        self._stream.__enter__()
        _here.beside = True

    def __exit__(self, *error: Any) -> None:
        _here.beside = False
        self._stream.__exit__(*error)
