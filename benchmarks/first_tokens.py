"""How long requests that come at the same moment wait for their first tokens, by how many ids are read in one pass.

    python benchmarks/first_tokens.py [--shapes SHAPE,... | --model DIRECTORY] [--policy auto] [--requests 8,16]
        [--ids 24] [--most 0,64,128,256] [--turns 7]

An engine gets all requests at once, with greedy answers and prompts of up to a third more or fewer ids than `--ids`,
which are new in each turn. With at most 0 ids together each prompt is read alone, a prompt a step. Printed are times
over those with 0, the median of turns that take turns, with the least and the greatest in brackets: of all first tokens
(the mean), of the first one, of the last one, and of all tokens; in processor time of the process up to then. Below 1
is better.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import elm_mlx

TOKENS = 16  # of each answer


class Waits(NamedTuple):
    """Seconds from the beginning: the mean of all first tokens, the first of them, the last, and the end of all."""

    mean: float
    first: float
    last: float
    end: float


def asked(lm: elm_mlx.LanguageModel, lengths: Sequence[int], seed: int, most: int) -> Waits:
    """Answers requests with prompts of these lengths, at most so many ids of which are read in one pass."""
    from elm_mlx.engine import together
    from elm_mlx.engine.budget import Budget
    from elm_mlx.engine.engine import Engine
    from elm_mlx.engine.limits import Limits
    from elm_mlx.engine.request import Request

    together.MOST_IDS = most
    rng = random.Random(seed)
    unit = lm.config.kv_bytes_per_token(32)
    limits = Limits(lm.config.context_length, unit, Budget(10_000 * unit), rows=len(lengths), reuse=False)
    engine = Engine(lm.model, lm.config.num_layers, limits, lm.execution)
    prompts = [tuple(rng.choices(range(lm.config.vocab_size), k=length)) for length in lengths]
    begun = time.process_time()
    for prompt in prompts:
        engine.submit(Request(prompt, TOKENS))
    firsts: dict[int, float] = {}
    while engine.has_work:
        for one in engine.step():
            if one.ids:
                firsts.setdefault(one.number, time.process_time() - begun)
    ended = time.process_time() - begun
    assert len(firsts) == len(lengths)
    return Waits(statistics.mean(firsts.values()), min(firsts.values()), max(firsts.values()), ended)


def compare(lm: elm_mlx.LanguageModel, requests: int, ids: int, given: argparse.Namespace) -> None:
    """Takes turns with each number of ids, and prints the times over those with none."""
    runs: dict[int, list[Waits]] = {most: [] for most in given.most}
    for turn in range(1 + given.turns):
        rng = random.Random(turn)
        lengths = [rng.randint(ids - ids // 3, ids + ids // 3) for _ in range(requests)]
        for most in given.most if turn % 2 else given.most[::-1]:
            runs[most].append(asked(lm, lengths, turn, most))
    base = runs[given.most[0]][1:]
    print(f"{requests} requests of {ids} ids, {given.most[0]} together: first tokens after "
          f"{1000 * statistics.median(one.mean for one in base):.1f} ms (mean)", flush=True)  # fmt: skip
    for most, waits in runs.items():
        for name, values, before in zip(Waits._fields, zip(*waits[1:], strict=True), zip(*base, strict=True),
                                        strict=True):  # fmt: skip
            ratios = [one / other for one, other in zip(values, before, strict=True)]
            told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"  {most:>4} together, {name:<5} {told}", flush=True)


@contextmanager
def models(given: argparse.Namespace) -> Iterator[Iterator[tuple[str, elm_mlx.LanguageModel]]]:
    """The models to measure with, by name."""
    from elm_mlx.bench.random_model import random_model

    def each() -> Iterator[tuple[str, elm_mlx.LanguageModel]]:
        if given.model:
            yield str(given.model), elm_mlx.load(given.model, cpu_policy=given.policy)
            return
        for shape in given.shapes.split(","):
            with random_model(shape) as directory:
                yield shape, elm_mlx.load(directory, cpu_policy=given.policy)

    yield each()


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--shapes", default="openelm-20x64,llama-16x64", help="shapes of elm-mlx bench")
    options.add_argument("--model", type=Path, help="a model instead")
    options.add_argument("--policy", default="compiled", help="how the CPU computes")
    options.add_argument("--requests", type=numbers, default=[8, 16], help="how many come together")
    options.add_argument("--ids", type=numbers, default=[24], help="of each prompt, about")
    options.add_argument(
        "--most", type=numbers, default=[0, 64, 128, 256], help="ids of one pass; the first is the base"
    )
    options.add_argument("--turns", type=int, default=7, help="runs of each kind, after one that warms up")
    given = options.parse_args()
    elm_mlx.use_fast_blas()
    from elm_mlx.device.blas import blas_threads

    with models(given) as found:
        for name, lm in found:
            if given.policy == "compiled":
                blas_threads()[1](1)
            print(name)
            for requests in given.requests:
                for ids in given.ids:
                    compare(lm, requests, ids, given)


if __name__ == "__main__":
    main()
