"""Measures how fast this machine reads memory, by means that share no code with the models."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np

BUFFER_BYTES = 2**30  # far more than any cache holds
READS = 8  # the best of them counts


def measure_bandwidth() -> dict[str, Any]:
    """Measures the bytes a second of the fastest way to find a buffer's maximum, and says which that was: MLX on its
    device, or NumPy in a number of threads."""
    buffer = np.ones(BUFFER_BYTES // 4, dtype=np.float32)
    array, cores = mx.array(buffer), os.cpu_count() or 1
    ways = {f"NumPy in {n} threads": in_threads(buffer, n) for n in sorted({1, 2, cores // 2 or 1, cores})}
    ways["MLX"] = best(lambda: mx.eval(mx.max(array)))
    way = min(ways, key=lambda name: ways[name])
    return {"bytes_per_s": buffer.nbytes / ways[way], "by": way, "buffer_bytes": buffer.nbytes}


def in_threads(buffer: np.ndarray, threads: int) -> float:
    """Seconds that a number of threads take to read the buffer, each a part of it."""
    parts = np.array_split(buffer, threads)
    with ThreadPoolExecutor(threads) as pool:
        return best(lambda: list(pool.map(np.max, parts)))


def best(read: Callable[[], object]) -> float:
    """Seconds of the quickest of READS reads."""
    times = []
    for _ in range(READS):
        begun = time.perf_counter()
        read()
        times.append(time.perf_counter() - begun)
    return min(times)
