"""The policy for MLX's CPU backend, the stand-in where there is no GPU: it makes an Execution, and nothing else decides
by that backend.

What was measured (docs/numerics.md, benchmarks/LOG.md), and what follows from it:

- For each weight, the backend's kernels for 4 bits in bfloat16 are nine times slower than those for float32, and those
  for float16 are slower, too. So the policy computes in float32, and expands quantized weights while that fits.
- MLX builds compiled kernels with g++ in a shared temporary folder. The first build takes seconds, and a file there
  that is cut short, or a compiler that cannot build, ends every run after it. So nothing is compiled unless asked for.
- A stream of the backend computes one thing after the other. Only the BLAS uses more than one core, and for a single
  row it gains next to nothing by that. So each of two to four cores gets a stream: of a prompt a chunk each, of the
  large products of a token a share of the rows each.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from elm_mlx.config import ModelConfig
from elm_mlx.device import memory
from elm_mlx.device.blas import blas_threads
from elm_mlx.device.execution import Execution
from elm_mlx.errors import InvalidRequest

if TYPE_CHECKING:
    from elm_mlx.device.execution import DeviceStream

POLICIES = ("auto", "plain", "compiled")
CHUNK = 256  # attention here computes the masked half, too: smaller chunks have less of it
MOST_STREAMS = 4  # nothing was measured with more cores: they are left to the BLAS
NOTICE = "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac."


def choose_execution(config: ModelConfig, policy: str = "auto") -> Execution:
    """How to run a model of this configuration on MLX's default device.

    On the CPU backend "auto" is what is fastest there, "plain" computes in the stored type, and "compiled" does what a
    GPU would do: in the stored type, in compiled steps, on one stream. A GPU has one way only. Raises InvalidRequest
    for any other policy.
    """
    if policy not in POLICIES:
        raise InvalidRequest(f"cpu_policy is {policy!r}; it is one of {', '.join(POLICIES)}.")
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.gpu:
        return Execution()
    streams = shared_streams() if policy == "auto" else no_streams()
    if policy == "compiled":
        return Execution(warm_up=True, chunk=CHUNK, notice=NOTICE)
    fits = 4 * config.parameter_count <= memory.free_memory() / 2
    if policy == "plain" or (config.quantization is None and not fits):
        return Execution(compiled=False, chunk=CHUNK, streams=streams, notice=NOTICE)
    expand = config.quantization is not None and fits
    return Execution(mx.float32, expand, compiled=False, chunk=CHUNK, streams=streams, notice=NOTICE)


def shared_streams() -> tuple[DeviceStream, ...]:
    """A stream for each thread that the BLAS would use, which then uses one thread in each; none where that is one
    thread, or more than were measured."""
    threads, set_threads = blas_threads()
    if not 1 < threads <= MOST_STREAMS:
        return no_streams()
    set_threads(1)
    return make_streams(threads)


def no_streams() -> tuple[()]:
    """No streams of our own; the BLAS gets all of its threads back."""
    threads, set_threads = blas_threads()
    set_threads(threads)
    return ()


@cache
def make_streams(count: int) -> tuple[DeviceStream, ...]:
    """MLX's own stream and `count` - 1 more, made once. Each thread that uses them gets streams of its own from MLX."""
    import mlx.core as mx

    return mx.Device(mx.cpu), *(mx.new_thread_local_stream(mx.cpu) for _ in range(count - 1))
