"""How a model is computed on this machine: decided once, when it is loaded, and handed on whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx

    DeviceStream = mx.Device | mx.ThreadLocalStream  # MLX's own stream of a device, or another of each thread

PREFILL_CHUNK = 512  # ids of a prompt that are read at once, where a device has no number of its own


@dataclass(frozen=True)
class Execution:
    """How to load and run a model.

    `dtype` is the type to compute in (None: as the weights are stored); with `expand` quantized weights are expanded
    to it. With `compiled` a decode step runs in compiled stretches, after a `warm_up` where it is uncertain that they
    can be built here. A prompt is read in chunks of `chunk` ids, one on each of `streams` at a time (none: on MLX's
    own). `notice` is what a program may tell its user about the device.
    """

    dtype: mx.Dtype | None = None
    expand: bool = False
    compiled: bool = True
    warm_up: bool = False
    chunk: int = PREFILL_CHUNK
    streams: tuple[DeviceStream, ...] = ()
    notice: str | None = None
