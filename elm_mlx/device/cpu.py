"""The policy for MLX's CPU backend, the stand-in where there is no GPU. It makes an Execution; no other module decides
anything by that backend.

What was measured (docs/numerics.md, benchmarks/LOG.md), and what follows from it:

- For each weight, the backend's kernels for 4 bits in bfloat16 are nine times slower than those for float32, and those
  for float16 are slower, too. So the policy computes in float32, and expands quantized weights where they then fit.
- MLX builds compiled kernels with g++ in a shared temporary folder. The first build takes seconds; a file
  there that is cut short, or a compiler that does not work, makes every later run fail. So nothing is compiled
  unless the caller asks for it.
- A stream of the backend computes one thing after the other. Only the BLAS uses more than one core, and for a single
  row it gains almost nothing by that. So each of two to four cores gets a stream. Each stream computes one chunk of a
  prompt at a time, and a share of the rows in the large products of a single token.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.device import memory
from elm_mlx.device.blas import blas_threads
from elm_mlx.device.execution import Execution

if TYPE_CHECKING:
    from elm_mlx.device.execution import DeviceStream

CPU_CHUNK = 256  # ids; attention here computes the masked half, too, and smaller chunks have less of it
FLOAT32_SHARE = 0.5  # of the free memory, that weights in float32 may take; chosen, not measured
MOST_STREAMS = 4  # nothing was measured on more cores: the BLAS uses those
NOTICE = "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac."


def choose_for_cpu(config: ModelConfig, policy: str) -> Execution:
    """The Execution of a policy on the CPU backend. "auto" computes on several streams, and in float32 if that fits in
    FLOAT32_SHARE of the free memory."""
    streams = open_streams() if policy == "auto" else restore_blas_threads()
    if policy == "compiled":
        return Execution(try_first=True, chunk=CPU_CHUNK, notice=NOTICE)
    fits = 4 * config.parameter_count <= memory.free_memory() * FLOAT32_SHARE
    if policy == "plain" or (config.quantization is None and not fits):
        return Execution(compiled=False, chunk=CPU_CHUNK, streams=streams, notice=NOTICE)
    expand = config.quantization is not None and fits
    return Execution(mx.float32, expand, compiled=False, chunk=CPU_CHUNK, streams=streams, notice=NOTICE)


def open_streams() -> tuple[DeviceStream, ...]:
    """Opens a stream for each thread that the BLAS would use, and limits the BLAS to one thread a call. With a single
    thread, or more threads than were measured, opens none and leaves the BLAS all of them."""
    threads, set_threads = blas_threads()
    if not 1 < threads <= MOST_STREAMS:
        return restore_blas_threads()
    set_threads(1)
    return make_streams(threads)


def restore_blas_threads() -> tuple[()]:
    """Gives the BLAS all of its threads back, and returns no streams."""
    threads, set_threads = blas_threads()
    set_threads(threads)
    return ()


@cache
def make_streams(count: int) -> tuple[DeviceStream, ...]:
    """Makes `count` streams once: MLX's own and new ones. Each thread that uses them gets its own streams from MLX."""
    return mx.Device(mx.cpu), *(mx.new_thread_local_stream(mx.cpu) for _ in range(count - 1))
