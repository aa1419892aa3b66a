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
  prompt at a time. What is not in several chunks, such as a single token, is computed on one stream, and the others
  compute shares of its large products. So a model with large matrices gains by a second chunk only where both are
  longer.
- Attention of several ids has no kernel of its own here: it makes the scores of all its ids and positions, a number for
  each query head. So the ids that are read at a time become fewer as the prompt becomes longer.
- For x86-64 the backend's exponentials are three times as slow as its powers, which take their place where there are
  many (device.exponential).
"""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.device import memory
from elm_mlx.device.blas import blas_threads
from elm_mlx.device.execution import Execution
from elm_mlx.device.shared_linear import LARGE
from elm_mlx.device.thread_count import take_threads

if TYPE_CHECKING:
    from elm_mlx.device.execution import DeviceStream

LEAST_CHUNK, LEAST_SHARED = 16, 32  # ids of a stream, the second where the streams could share large products instead
CPU_CHUNK = 256  # ids; attention here computes the masked half, too, and smaller chunks have less of it
SCORE_BYTES = 48 * 2**20  # of the scores of one layer, which are held twice: 76 ids at 8,192 positions for 20 heads
FLOAT32_SHARE = 0.5  # of the free memory, that weights in float32 may take; chosen, not measured
SLOW_EXP = platform.machine().lower() in ("x86_64", "amd64")  # device.exponential says why
MOST_STREAMS = 4  # nothing was measured on more cores: the BLAS uses those
NOTICE = "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac."


def choose_for_cpu(config: ModelConfig, policy: str) -> Execution:
    """The Execution of a policy on the CPU backend. "auto" computes on several streams, and in float32 if that fits in
    FLOAT32_SHARE of the free memory."""
    area = SCORE_BYTES // (4 * max(config.num_heads))  # a score has four bytes, also where weights have two
    has_large = 4 * config.model_dim * max(config.ffn_dims) >= LARGE  # in float32, in which "auto" computes
    execution = replace(choose_streams(policy), chunk_area=area, least_chunk=LEAST_SHARED if has_large else LEAST_CHUNK)
    fits = 4 * config.parameter_count <= memory.free_memory() * FLOAT32_SHARE
    if policy != "auto" or (config.quantization is None and not fits):
        return execution
    return replace(execution, dtype=mx.float32, expand=config.quantization is not None and fits)


def choose_streams(policy: str) -> Execution:
    """The Execution of a policy with the stored type. "auto" opens a stream for each thread that the BLAS would use,
    and limits the BLAS to one thread a product; with a single thread, or more threads than were measured, and under
    other policies the BLAS has all of them. So it has where an earlier model keeps it at several, and the notice says
    so: streams beside them would take more threads than there are cores."""
    threads, _ = blas_threads()
    shares = policy == "auto" and 1 < threads <= MOST_STREAMS
    wanted = 1 if shares else threads
    in_use = take_threads(wanted)
    why_not = in_use.why_not(wanted)
    return Execution(
        try_first=policy == "compiled",
        compiled=policy == "compiled",
        chunk=CPU_CHUNK,
        streams=make_streams(threads) if shares and not why_not else (),
        notice=f"{NOTICE} {why_not}" if why_not else NOTICE,
        grow_by=0,  # nothing is copied here while a step runs
        threads=in_use,
    )


@cache
def make_streams(count: int) -> tuple[DeviceStream, ...]:
    """Makes `count` streams once: MLX's own and new ones. Each thread that uses them gets its own streams from MLX."""
    return mx.Device(mx.cpu), *(mx.new_thread_local_stream(mx.cpu) for _ in range(count - 1))
