"""How a model is computed on this machine, as one value: `device.choose_execution` decides it when the model is loaded,
and it is passed on whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx

    from elm_mlx.device.thread_count import ThreadsInUse

    DeviceStream = mx.Device | mx.ThreadLocalStream  # MLX's own stream of a device, or another of each thread

PREFILL_CHUNK = 512  # ids of a prompt that are read at once, where the device has no other number
GROW_BY = 256  # positions; a GPU may copy a whole buffer at every step, so that room beyond need costs time there
SUBMITS = ("early", "late", "auto")  # when a step is handed to the device: engine.pace says more


@dataclass(frozen=True)
class Execution:
    """How to load and run a model.

    `dtype` is the type to compute in (None: as the weights are stored); with `expand` quantized weights are expanded to
    it. With `compiled` the gate, and steps of one token, are compiled; `try_first` says that the engine's warm-up must
    try such a step, since it may not be possible to build one here. A prompt is read in chunks of at most `chunk` ids,
    one on each of `streams` at a time (with no streams, on MLX's own), and a stream gets one of at least `least_chunk`
    ids. Where `chunk_area` is not 0, ids that are read at a time, times the positions that they attend to, stay below
    it, so chunks become smaller deep in a prompt. `notice` is what a program may show its user about the device.
    Buffers of caches grow by `grow_by` positions, or double where that is 0. `submit` says when a step is handed to the
    device: "early", before the ids of the step before are read, "late", after that, or "auto", as engine.pace decides.
    `threads` keeps the BLAS's threads as this model needs them; `device.release` lets them go.
    """

    dtype: mx.Dtype | None = None
    expand: bool = False
    compiled: bool = True
    try_first: bool = False
    chunk: int = PREFILL_CHUNK
    least_chunk: int = 1
    chunk_area: int = 0
    streams: tuple[DeviceStream, ...] = ()
    notice: str | None = None
    grow_by: int = GROW_BY
    submit: str = "auto"
    threads: ThreadsInUse | None = field(default=None, compare=False, repr=False)
