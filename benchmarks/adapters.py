"""What adapters of rank 8 on all products cost a decode step: one against none, in one row and in eight, and eight
different ones in a batch of eight against one. The ways take turns; times are processor times of the whole process,
medians, so only their ratios count. For example: python benchmarks/adapters.py --model DIR"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx

import elm_mlx
from elm_mlx.demo import demo_directory
from elm_mlx.device.thread import on_device
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import matrices_of
from elm_mlx.store.adapters.write import Written, write_adapter

RANK, COUNT, PROMPT = 8, 8, 32
Way = tuple[Callable[[], Any], int]  # the model, and how many rows


def made(lm: elm_mlx.LanguageModel, seed: int) -> Written:
    """An adapter of small random numbers."""
    keys = iter(mx.random.split(mx.random.key(seed), 2 * len(shapes := matrices_of(lm.config))))
    normal = mx.random.normal
    sums = {
        name: LowRank(0.01 * normal((I, RANK), key=next(keys)), normal((RANK, O), key=next(keys)))
        for name, (O, I) in shapes.items()
    }
    return Written(sums, scale=0.05)


def seconds_of_a_step(model: Any, rows: int, layers: int, steps: int) -> float:
    """Processor time of a decode step of so many rows."""
    cache = make_cache(layers, PROMPT + steps, reserve=PROMPT + steps)
    mx.eval(model.hidden(mx.zeros((rows, PROMPT), mx.int32), cache))
    last = mx.zeros((rows, 1), mx.int32)
    begun = time.process_time()
    for _ in range(steps):
        mx.eval(model.head(model.last_hidden(last, cache)))
    return (time.process_time() - begun) / steps


def measure(ways: dict[str, Way], layers: int, steps: int, rounds: int) -> dict[str, float]:
    """The median seconds of a step of each way; the first round warms up."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (model, rows) in ways.items():
            spent = seconds_of_a_step(model(), rows, layers, steps)
            samples[name] += [spent] if number else []
    return {name: median(found) for name, found in samples.items()}


def main() -> None:
    """Prints the times and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_directory(), help="a directory; default: the demo")
    parser.add_argument("--cpu-policy", default="auto")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, elm_mlx.load(asked.model, cpu_policy=asked.cpu_policy) as lm:
        for number in range(COUNT):
            adapter = on_device(lambda _, number=number: made(lm, number))  # type: ignore[misc]
            place = Path(folder) / str(number)
            on_device(lambda _, place=place, adapter=adapter: write_adapter(place, adapter, lm.config))  # type: ignore[misc]
            lm.load_adapter(str(number), place)
        variants, numbers = lm.variants, [lm.request([1], 1, adapter=str(n)).adapter for n in range(COUNT)]
        ways: dict[str, Way] = {
            "none": (lambda: variants.plain, 1),
            "one": (lambda: variants.of(numbers[0]), 1),
            "none, 8 rows": (lambda: variants.plain, COUNT),
            "one, 8 rows": (lambda: variants.of(numbers[0]), COUNT),
            "eight, 8 rows": (lambda: variants.of_rows(numbers), COUNT),
        }
        found = on_device(lambda _: measure(ways, lm.config.num_layers, asked.steps, asked.rounds))
    for name, spent in found.items():
        print(f"{name:14} {1000 * spent:8.3f} ms")
    print(f"one / none              {found['one'] / found['none']:.3f}")
    print(f"one / none, 8 rows      {found['one, 8 rows'] / found['none, 8 rows']:.3f}")
    print(f"eight / one, 8 rows     {found['eight, 8 rows'] / found['one, 8 rows']:.3f}")


if __name__ == "__main__":
    main()
