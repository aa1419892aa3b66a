"""What memory one chunk of a long prompt takes at a depth, over weights and cache, as this machine reads it.

    python benchmarks/long_context.py [--shape openelm-270m] [--depth 8192,32768] [--layers N] [--policy auto] [--json]

A cache of synthetic keys and values (random numbers) stands for what was read before: reading so much on a CPU takes
hours. On it one round of chunks is read as the engine reads it; on the CPU backend chunks are smaller at depth. "peak"
is the peak of MLX's allocator over weights and cache, a figure that does not vary. The seconds are one sample.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import elm_mlx

if TYPE_CHECKING:
    from elm_mlx.engine.cache.kv import KVCache

SCHEMA = "elm-mlx long context 1"
PROMPT = 512  # ids that are still to be read, of which one round is


@dataclass(frozen=True)
class Round:
    """A round of chunks at a depth: ids read, bytes over weights and cache at most, bytes of the cache, seconds."""

    depth: int
    ids: int
    peak_bytes: int
    cache_bytes: int
    seconds: float


def filled(lm: elm_mlx.LanguageModel, depth: int) -> list[KVCache]:
    """A cache of `depth` positions with random keys and values, with room for PROMPT more."""
    import mlx.core as mx

    from elm_mlx.engine.cache.kv import make_cache

    cache = make_cache(lm.config.num_layers, depth + PROMPT, depth + PROMPT)
    for layer, heads in zip(cache, lm.config.cached_heads, strict=True):
        for start in range(0, depth, 4096):  # a few at a time: the cache is all that is to be held
            shape = (1, heads, min(4096, depth - start), lm.config.head_dim)
            layer.append(mx.random.normal(shape, lm.model.dtype), mx.random.normal(shape, lm.model.dtype))
            mx.eval(layer.arrays())
    mx.clear_cache()
    return cache


def read_round(lm: elm_mlx.LanguageModel, depth: int) -> Round:
    """Reads one round of chunks after `depth` positions."""
    import mlx.core as mx

    from elm_mlx.engine.cache.kv import cache_bytes
    from elm_mlx.engine.prefill import Reading

    cache = filled(lm, depth)
    reading = Reading(lm.model, mx.array([[7] * PROMPT]), cache, lm.execution)
    held, begun = mx.get_active_memory(), time.perf_counter()
    mx.reset_peak_memory()
    reading.advance()
    mx.eval(reading.arrays())
    seconds = time.perf_counter() - begun
    return Round(depth, reading.read, mx.get_peak_memory() - held, cache_bytes(cache), seconds)


def measure(shape: str, policy: str, depths: list[int]) -> list[Round]:
    """The rounds of a model of random float32 weights at these depths."""
    from elm_mlx.bench.random_model import random_model

    with random_model(shape, dtype="float32") as directory:
        lm = elm_mlx.load(directory, cpu_policy=policy)
        return [read_round(lm, depth) for depth in depths]


def keep_layers(shape: str, layers: int) -> None:
    """Gives a shape so many layers: the peak is that of its widest layer, the cache is that of all."""
    from elm_mlx.bench import shapes

    raw: dict[str, Any] = shapes.SHAPES[shape]
    raw["num_hidden_layers" if "num_hidden_layers" in raw else "num_transformer_layers"] = layers


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shape", default="openelm-270m", help="a shape of elm-mlx bench")
    options.add_argument("--depth", default="8192,32768", help="positions that are held")
    options.add_argument("--layers", type=int, help="fewer layers, for a smaller cache; the last one takes no part")
    options.add_argument("--policy", default="auto", help="the policy of the CPU backend")
    options.add_argument("--json", type=Path, help="a file for the figures")
    given = options.parse_args()
    elm_mlx.use_fast_blas()
    if given.layers:
        keep_layers(given.shape, given.layers)
    rounds = measure(given.shape, given.policy, [int(depth) for depth in given.depth.split(",")])
    print("| depth | ids | peak MB | cache MB | seconds |\n|--:|--:|--:|--:|--:|")
    for one in rounds:
        peak, cache = one.peak_bytes / 1e6, one.cache_bytes / 1e6
        print(f"| {one.depth:,} | {one.ids} | {peak:.0f} | {cache:.0f} | {one.seconds:.1f} |")
    if given.json:
        found = {"schema": SCHEMA, "shape": given.shape, "rounds": [vars(one) for one in rounds]}
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
