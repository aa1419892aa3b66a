"""Where a calibration computes: a window of text on each of the device's streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.device import choose_execution, release
from elm_mlx.device.numpy_threads import numpy_on_one_thread

Place = AbstractContextManager[object]


@contextmanager
def places(config: ModelConfig) -> Iterator[list[Place]]:
    """Gives where windows may be computed beside one another: one place where the device has no streams of ours. With
    more, all cores have work, so that no product, be it MLX's or numpy's, is divided among threads."""
    execution = choose_execution(config)
    found: list[Place] = [mx.stream(stream) for stream in execution.streams]
    try:
        with numpy_on_one_thread() if found else nullcontext():
            yield found or [nullcontext()]
    finally:
        release(execution)
