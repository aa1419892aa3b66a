"""Ways to keep the likeliest ids that make up a share of the probability, in processor time, by turns.

    python benchmarks/top_p.py [--vocabulary 128256] [--top-p 0.9] [--rounds 20] [--rows 1]

For each way: the least and the median milliseconds of one call, and how many times faster than sorting as it was done
before it is, the median of the rounds with the least and the greatest. `draw` is the whole draw with top-p, before and
now. The ways that lost are kept here alone; benchmarks/LOG.md says why.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import mlx.core as mx  # noqa: E402

from elm_mlx.engine.sampling import Sampling, draw, draw_each  # noqa: E402
from elm_mlx.engine.top_p import by_searching, by_sorting  # noqa: E402

Way = Callable[[mx.array, float], mx.array]


def by_argsort(logits: mx.array, top_p: float) -> mx.array:
    """As it was done before: the order of all ids, a sum in that order, and its result put back."""
    order = mx.argsort(-logits, axis=-1)
    probabilities = mx.take_along_axis(mx.softmax(logits, axis=-1), order, axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    keep = mx.put_along_axis(mx.zeros(logits.shape, mx.bool_), order, before < top_p, axis=-1)
    return mx.where(keep, logits, -math.inf)


def by_float_sums(logits: mx.array, top_p: float) -> mx.array:
    """Searches as `by_searching` does, with sums of floats."""
    p = mx.softmax(logits, axis=-1)
    bits = mx.zeros((p.shape[0], 1), mx.int32)
    for low in reversed(range(30)):
        tried = bits + 2**low
        mass = mx.sum(p * (p >= tried.view(mx.float32)), axis=-1, keepdims=True)
        bits = mx.where(mass >= top_p, tried, bits)
    return mx.where(p >= bits.view(mx.float32), logits, -math.inf)


def by_products(logits: mx.array, top_p: float) -> mx.array:
    """Searches in three bits a round, the sums of all seven thresholds in one product of the BLAS."""
    p = mx.softmax(logits, axis=-1)
    bits, steps = mx.zeros((p.shape[0], 1), mx.int32), mx.arange(1, 8, dtype=mx.int32)[None]
    for low in reversed(range(0, 30, 3)):
        tried = (bits + steps * 2**low).view(mx.float32)  # [B, 7]
        mass = ((p[:, None] >= tried[..., None]).astype(mx.float32) @ p[..., None])[..., 0]
        bits = bits + 2**low * mx.sum(mass >= top_p, axis=-1, keepdims=True).astype(mx.int32)
    return mx.where(p >= bits.view(mx.float32), logits, -math.inf)


def by_candidates(logits: mx.array, top_p: float) -> mx.array:
    """Sorts the 1,024 likeliest ids alone. No answer where these do not reach the share: to be right, it would have to
    sort all ids as well."""
    ids = mx.argpartition(logits, -1024, axis=-1)[..., -1024:]
    p = mx.take_along_axis(mx.softmax(logits, axis=-1), ids, axis=-1)
    likeliest_first = -mx.sort(-p, axis=-1)
    kept = mx.cumsum(likeliest_first, axis=-1) - likeliest_first < top_p
    threshold = mx.min(mx.where(kept, likeliest_first, math.inf), axis=-1, keepdims=True)
    return mx.where(mx.softmax(logits, axis=-1) >= threshold, logits, -math.inf)


def drawn_before(logits: mx.array, top_p: float) -> mx.array:
    keys = mx.random.split(mx.random.key(0), logits.shape[0])
    return draw_each(by_argsort(logits.astype(mx.float32) / 0.9, top_p), keys)


def drawn_now(logits: mx.array, top_p: float) -> mx.array:
    return draw(logits, Sampling(0.9, top_p=top_p), mx.random.split(mx.random.key(0), logits.shape[0]))


WAYS: dict[str, Way] = {
    "argsort, as before": by_argsort,
    "sort of values": by_sorting,
    "search, 1 bit (kept)": by_searching,
    "search, 2 bits": partial(by_searching, bits=2),
    "search, 3 bits": partial(by_searching, bits=3),
    "search, float sums": by_float_sums,
    "search, products": by_products,
    "1,024 candidates": by_candidates,
    "draw before": drawn_before,
    "draw now": drawn_now,
}


def seconds(way: Way, logits: mx.array, top_p: float) -> float:
    """Processor seconds of one call."""
    begun = time.process_time()
    mx.eval(way(logits, top_p))
    return time.process_time() - begun


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--vocabulary", type=int, default=128256)
    options.add_argument("--top-p", type=float, default=0.9)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--rows", type=int, default=1)
    given = options.parse_args()
    mx.set_default_device(mx.cpu)
    logits = 2.5 * mx.random.normal((given.rows, given.vocabulary), key=mx.random.key(0))
    mx.eval(logits)
    for way in WAYS.values():
        seconds(way, logits, given.top_p)
    rounds = [{name: seconds(way, logits, given.top_p) for name, way in WAYS.items()} for _ in range(given.rounds)]
    print(f"{'way':<24}{'least':>8}{'median':>8}  times faster")
    for name in WAYS:
        first = "draw before" if name.startswith("draw") else "argsort, as before"
        times = sorted(1000 * one[name] for one in rounds)
        faster = sorted(one[first] / one[name] for one in rounds)
        shown = f"{statistics.median(faster):.2f} [{faster[0]:.2f} to {faster[-1]:.2f}]"
        print(f"{name:<24}{times[0]:>8.2f}{statistics.median(times):>8.2f}  {shown}")


if __name__ == "__main__":
    main()
