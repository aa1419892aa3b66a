"""What adapters of rank 8 on all products cost a decode step: one against none, in one row and in eight, and eight
different ones in a batch of eight against one.

    python benchmarks/adapters.py [--model DIR | --random openelm-270m] [--rounds 20] [--steps 32] [--json FILE]

The ways take turns: a round is some steps of each. Times are processor times of the whole process; each ratio is taken
within a round, and its median, least and largest are printed. With a fast BLAS where there is one, as `elm-mlx
generate` has it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from typing import Any

import elm_mlx
from elm_mlx.errors import NotFound

if __name__ == "__main__" and "mlx.core" not in sys.modules:
    with suppress(NotFound):  # some machines have none
        elm_mlx.use_fast_blas()

import mlx.core as mx

from elm_mlx.bench.random_model import random_model
from elm_mlx.bench.shapes import SHAPES
from elm_mlx.demo import demo_directory
from elm_mlx.device.thread import on_device
from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.models.lora import LowRank
from elm_mlx.store.adapters.adapter_file import matrices_of
from elm_mlx.store.adapters.write import Written, write_adapter

RANK, COUNT, PROMPT = 8, 8, 32
SCHEMA = "elm-mlx adapters 1"
RATIOS = {  # what each stands over
    "one / none": ("one", "none"),
    "one / none, 8 rows": ("one, 8 rows", "none, 8 rows"),
    "eight / one, 8 rows": ("eight, 8 rows", "one, 8 rows"),
}
Way = tuple[Callable[[], Any], int]  # the model, and how many rows
Samples = dict[str, list[float]]


def made(lm: elm_mlx.LanguageModel, seed: int, *, lengths: bool = False) -> Written:
    """An adapter of small random numbers; with `lengths` it is a DoRA, each row of it of length 1."""
    keys = iter(mx.random.split(mx.random.key(seed), 2 * len(shapes := matrices_of(lm.config))))
    normal = mx.random.normal
    sums = {
        name: LowRank(
            0.01 * normal((I, RANK), key=next(keys)), normal((RANK, O), key=next(keys)), mx.ones(O) if lengths else None
        )
        for name, (O, I) in shapes.items()
    }
    return Written(sums, scale=0.05)


def load_made(lm: elm_mlx.LanguageModel, folder: Path, name: str, adapter: Callable[[], Written]) -> int:
    """Loads an adapter that is made now, and returns its number."""
    on_device(lambda _: write_adapter(folder / name, adapter(), lm.config))
    lm.load_adapter(name, folder / name)
    number = lm.request([1], 1, adapter=name).adapter
    assert number is not None
    return number


def seconds_of_a_step(model: Any, rows: int, layers: int, steps: int) -> float:
    """Processor time of a decode step of so many rows."""
    cache = make_cache(layers, PROMPT + steps, reserve=PROMPT + steps)
    mx.eval(model.hidden(mx.zeros((rows, PROMPT), mx.int32), cache))
    last = mx.zeros((rows, 1), mx.int32)
    begun = time.process_time()
    for _ in range(steps):
        mx.eval(model.head(model.last_hidden(last, cache)))
    return (time.process_time() - begun) / steps


def measure(ways: dict[str, Way], layers: int, steps: int, rounds: int) -> Samples:
    """The seconds of a step of each way in each round; the first round warms up and is left out."""
    samples: Samples = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (model, rows) in ways.items():
            spent = seconds_of_a_step(model(), rows, layers, steps)
            samples[name] += [spent] if number else []
    return samples


def say_ratios(samples: Samples, ratios: dict[str, tuple[str, str]]) -> None:
    """Prints each way's median time, and each ratio: median, least and largest."""
    for name, spent in samples.items():
        print(f"{name:14} {1000 * median(spent):8.3f} ms")
    for name, (over, under) in ratios.items():
        each = [one / other for one, other in zip(samples[over], samples[under], strict=True)]
        print(f"{name:22} {median(each):.3f} ({min(each):.3f} to {max(each):.3f})")


@contextmanager
def opened(asked: argparse.Namespace) -> Iterator[tuple[elm_mlx.LanguageModel, Path]]:
    """The model that is asked for, and a folder for its adapters."""
    directory = random_model(asked.random) if asked.random else nullcontext(asked.model)
    with directory as place, tempfile.TemporaryDirectory() as folder, elm_mlx.load(place) as lm:
        yield lm, Path(folder)


def main() -> None:
    """Prints the times and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=demo_directory(), help="a directory; default: the demo")
    parser.add_argument("--random", choices=[*SHAPES], help="or a shape with random weights")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="a file for all samples")
    asked = parser.parse_args()
    with opened(asked) as (lm, folder):
        numbers = [load_made(lm, folder, str(seed), lambda seed=seed: made(lm, seed)) for seed in range(COUNT)]  # type: ignore[misc]
        variants = lm.variants
        ways: dict[str, Way] = {
            "none": (lambda: variants.plain, 1),
            "one": (lambda: variants.of(numbers[0]), 1),
            "none, 8 rows": (lambda: variants.plain, COUNT),
            "one, 8 rows": (lambda: variants.of(numbers[0]), COUNT),
            "eight, 8 rows": (lambda: variants.of_rows(numbers), COUNT),
        }
        samples = on_device(lambda _: measure(ways, lm.config.num_layers, asked.steps, asked.rounds))
    say_ratios(samples, RATIOS)
    if asked.json:
        facts = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(asked).items()}
        asked.json.write_text(json.dumps({"schema": SCHEMA, "asked": facts, "samples": samples}, indent=1) + "\n")


if __name__ == "__main__":
    main()
