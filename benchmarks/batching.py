"""What the engine for several requests gains: ratios of pairs of runs that take turns, every sample kept.

    python benchmarks/batching.py [--only NAME,...] [--shapes SHAPE,...] [--pairs 5] [--json FILE]

Each experiment is one function here, and its docstring says what is compared. All run random weights in float32 in
steps as a GPU gets them (`--cpu-policy compiled`), the BLAS in one thread, and count the processor time of the whole
process, which on a busy machine is steadier than time. mlx-lm runs in a process of its own. Above 1, elm-mlx's engine
is the better one of the pair. Memory: `batch_memory.py`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from samples import JSON_HELP, Samples

import elm_mlx

SCHEMA = "elm-mlx batching 1"
SHAPES = ("openelm-20x64", "llama-16x64")
VOCAB = 2048
STEPS = 64  # tokens of each row that are counted
ANSWER = 256  # tokens of a row that is answered alone
BLOCK = 8  # tokens that one of two programs decodes while the other waits
PROMPT = 1024  # ids of the prompt that is read alone
CHAT, NEW = 740, 60  # ids of a chat at its fifth turn, and those of them that are new


class Compared(NamedTuple):
    """The two runs of each pair, in seconds or in seconds a token: ours, and what it is compared with."""

    ours: list[float]
    other: list[float]


class Lab:
    """A model of random weights, and mlx-lm with it, for all experiments of a shape."""

    def __init__(self, directory: Path, peer: Any, pairs: int) -> None:
        self.directory, self.peer, self.pairs = directory, peer, pairs
        self.models: list[Any] = []  # loaded ones, which end with the last reference
        self.ours = self.load("compiled")
        one_thread()

    def load(self, policy: str) -> Any:
        """A program that computes by this policy of the CPU."""
        from elm_mlx.bench.ours import Ours

        self.models.append(elm_mlx.load(self.directory, cpu_policy=policy))
        return Ours(self.models[-1])

    def take_turns(self, ours: Callable[[], float], other: Callable[[], float]) -> Compared:
        """Runs both in turn, first without counting."""
        runs = [(ours(), other()) for _ in range(1 + self.pairs)][1:]
        return Compared(*map(list, zip(*runs, strict=True)))

    def answer(self, load: Any) -> Any:
        """How our engine answers a load."""
        from elm_mlx.bench.batch import answer

        return answer(self.ours.session(load.rows), load)


def one_thread() -> None:
    """Limits this process's BLAS to one thread."""
    from elm_mlx.device.blas import blas_threads

    blas_threads()[1](1)


def ids(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=count)


def of_lengths(lengths: list[int]) -> Any:
    """Requests with prompts of these lengths, which decode together."""
    from elm_mlx.bench.cases import LEAST_PIECE
    from elm_mlx.bench.loads import Arrival, Load

    begun = sum(3 + length // LEAST_PIECE for length in lengths)  # steps until all have begun
    arrivals = [Arrival(ids(length, seed), 1 + STEPS + begun) for seed, length in enumerate(lengths)]
    return Load(arrivals, len(lengths), STEPS * len(lengths))


def spread_rows(rows: int) -> Any:
    """Prompts of 16 to 192 ids, in no order, so that rows of 16 to 256 tokens decode together."""
    lengths = [16 + (240 - STEPS) * row // (rows - 1) for row in range(rows)]
    random.Random(0).shuffle(lengths)
    return of_lengths(lengths)


def random_arrivals(rows: int) -> Any:
    """24 requests that come while others are answered: prompts of 8 to 150 ids, answers of 6 to 40 tokens."""
    from elm_mlx.bench.loads import Arrival, Load

    rng = random.Random(0)
    sizes = [(rng.randint(8, 150), rng.randint(6, 40)) for _ in range(24)]
    times = sorted(rng.randrange(sum(tokens for _, tokens in sizes)) for _ in sizes)
    arrivals = [Arrival(ids(size, seed), tokens, after)
                for seed, ((size, tokens), after) in enumerate(zip(sizes, times, strict=True))]  # fmt: skip
    return Load(arrivals, rows)


def per_token(run: Any) -> float:
    return run.cpu_seconds / run.tokens


def rows_4(lab: Lab) -> Compared:
    """A token of 4 rows of 16 to 256 tokens: ours, and mlx-lm's BatchGenerator."""
    return against_peer(lab, spread_rows(4))


def rows_8(lab: Lab) -> Compared:
    """A token of 8 rows of 16 to 256 tokens: ours, and mlx-lm's BatchGenerator."""
    return against_peer(lab, spread_rows(8))


def rows_16(lab: Lab) -> Compared:
    """A token of 16 rows of 16 to 256 tokens: ours, and mlx-lm's BatchGenerator."""
    return against_peer(lab, spread_rows(16))


def whole_4(lab: Lab) -> Compared:
    """The 4 rows of rows-4 with the reading of their prompts: ours, and mlx-lm's BatchGenerator."""
    return whole_against_peer(lab, spread_rows(4))


def whole_8(lab: Lab) -> Compared:
    """The 8 rows of rows-8 with the reading of their prompts: ours, and mlx-lm's BatchGenerator."""
    return whole_against_peer(lab, spread_rows(8))


def whole_16(lab: Lab) -> Compared:
    """The 16 rows of rows-16 with the reading of their prompts: ours, and mlx-lm's BatchGenerator."""
    return whole_against_peer(lab, spread_rows(16))


def against_peer(lab: Lab, load: Any) -> Compared:
    return lab.take_turns(lambda: per_token(lab.answer(load)), lambda: per_token(lab.peer.run(load)))


def arrivals_4(lab: Lab) -> Compared:
    """24 requests that come at random, at most 4 together, from first to last: ours, and mlx-lm's BatchGenerator."""
    return whole_against_peer(lab, random_arrivals(4))


def arrivals_8(lab: Lab) -> Compared:
    """24 requests that come at random, at most 8 together, from first to last: ours, and mlx-lm's BatchGenerator."""
    return whole_against_peer(lab, random_arrivals(8))


def whole_against_peer(lab: Lab, load: Any) -> Compared:
    return lab.take_turns(lambda: lab.answer(load).ended.cpu_seconds, lambda: lab.peer.run(load).ended.cpu_seconds)


def together_8(lab: Lab) -> Compared:
    """A token of 8 rows of 136 ids, and one of such a row alone, both ours."""
    return against_one(lab, 8)


def together_16(lab: Lab) -> Compared:
    """A token of 16 rows of 136 ids, and one of such a row alone, both ours."""
    return against_one(lab, 16)


def against_one(lab: Lab, rows: int) -> Compared:
    many, one = of_lengths([136] * rows), of_lengths([136])
    return lab.take_turns(lambda: per_token(lab.answer(many)), lambda: per_token(lab.answer(one)))


def one_row(lab: Lab) -> Compared:
    """A token of one row: the engine's, and that of the plain loop (engine/plain.py), in blocks of tokens that take
    turns, so that a machine that becomes slower does so for both."""
    prompt = ids(16)
    runs = [in_blocks(lab.ours.decode(prompt, ANSWER), plain(lab, prompt)) for _ in range(1 + lab.pairs)][1:]
    return Compared(*map(list, zip(*runs, strict=True)))


def in_blocks(ours: Iterator[int], other: Iterator[int]) -> tuple[float, float]:
    """Processor seconds of a token after the first, of two answers that are decoded in turn."""
    import mlx.core as mx

    spent, answers = [0.0, 0.0], (ours, other)
    for answer in answers:
        next(answer)
    blocks = ANSWER // BLOCK - 1
    for number in range(blocks):
        for which in (0, 1) if number % 2 else (1, 0):
            begun = time.process_time()
            for _ in range(BLOCK):
                next(answers[which])
            mx.synchronize()  # the step that is under way belongs to this block
            spent[which] += time.process_time() - begun
    ours.close()  # type: ignore[attr-defined]
    return spent[0] / (blocks * BLOCK), spent[1] / (blocks * BLOCK)


def one_row_worker(lab: Lab) -> Compared:
    """A token of one row: asked of the device thread and read in another one, and that of the plain loop."""
    from elm_mlx.engine.handle import NOTHING
    from elm_mlx.engine.request import Request

    prompt = ids(16)

    def read() -> Iterator[int]:
        request = Request(tuple(prompt), max_tokens=ANSWER, find=False, keep=False)
        handle, known, taken = lab.models[0]._worker.submit(request), NOTHING, 0
        while taken < ANSWER:
            handle.wait(known)
            known = handle.state
            yield from handle.sequence.ids[taken : known.ids]
            taken = known.ids

    return lab.take_turns(lambda: decoding(read()), lambda: decoding(plain(lab, prompt)))


def plain(lab: Lab, prompt: list[int]) -> Iterator[int]:
    """The answer of the plain loop, with the caches that a request gets."""
    from elm_mlx.engine.cache.kv import RESERVE, make_cache
    from elm_mlx.engine.plain import generate
    from elm_mlx.engine.sampling import Sampler, Sampling

    cache = make_cache(lab.ours.layers, len(prompt) + ANSWER, len(prompt) + RESERVE)
    return generate(lab.ours.model, prompt, cache, Sampler(Sampling()), max_tokens=ANSWER)


def decoding(answer: Iterator[int]) -> float:
    """Processor seconds of a token after the first."""
    next(answer)
    begun = time.process_time()
    count = sum(1 for _ in answer)
    return (time.process_time() - begun) / count


def prompt_compiled(lab: Lab) -> Compared:
    """Reading a prompt of 1,024 ids up to its first token: by the engine, and by `prefill` alone."""
    return reading(lab, lab.ours)


def prompt_auto(lab: Lab) -> Compared:
    """Reading a prompt of 1,024 ids up to its first token, on several streams (`--cpu-policy auto`): by the engine, and
    by `prefill` alone. These are times, not processor times."""
    try:
        return reading(lab, lab.load("auto"), time.perf_counter)
    finally:
        one_thread()


def reading(lab: Lab, ours: Any, clock: Callable[[], float] = time.process_time) -> Compared:
    import mlx.core as mx

    prompt = ids(PROMPT)

    def alone() -> float:
        begun = clock()
        ours.read(prompt, ours.make_cache(PROMPT))
        mx.synchronize()
        return clock() - begun

    def in_engine() -> float:
        begun = clock()
        first = ours.decode(prompt, 1)
        next(first)
        took = clock() - begun
        first.close()
        return took

    return lab.take_turns(in_engine, alone)


def fifth_turn(lab: Lab) -> Compared:
    """The first token of a chat of 740 ids, of which 60 are new: with the caches of the turn before, and without. These
    are times, not processor times."""
    return lab.take_turns(lambda: first_token(lab, reuse=True), lambda: first_token(lab, reuse=False))


def first_token(lab: Lab, reuse: bool) -> float:
    """Seconds to the first token of a chat's next turn."""
    session, chat = lab.ours.session(1, reuse=reuse), ids(CHAT)
    session.add(chat[: CHAT - NEW], 1)
    while session.engine.has_work:
        session.step()
    begun = time.perf_counter()
    turn = session.add(chat, 2)
    while not turn.ids:
        session.step()
    took = time.perf_counter() - begun
    assert (turn.reused > 0) == reuse
    session.close()
    return took


# The bars: mlx-lm's, or the other run's, time over ours.
EXPERIMENTS: dict[str, tuple[Callable[[Lab], Compared], float]] = {
    "rows-4": (rows_4, 1.8), "rows-8": (rows_8, 1.6), "rows-16": (rows_16, 1.5),
    "whole-4": (whole_4, 1.8), "whole-8": (whole_8, 1.6), "whole-16": (whole_16, 1.5),
    "arrivals-4": (arrivals_4, 1.8), "arrivals-8": (arrivals_8, 1.8),
    "together-8": (together_8, 3.0), "together-16": (together_16, 4.8),
    "one-row": (one_row, 0.99), "one-row-worker": (one_row_worker, 0.97),
    "prompt-compiled": (prompt_compiled, 0.98), "prompt-auto": (prompt_auto, 0.98),
    "fifth-turn": (fifth_turn, 7.0),
}  # fmt: skip


@contextmanager
def lab_for(shape: str, pairs: int) -> Iterator[Lab]:
    """A lab with random weights of this shape."""
    from elm_mlx.bench.peer import Peer
    from elm_mlx.bench.random_model import random_model

    with random_model(shape) as directory, Peer(directory) as peer:
        yield Lab(directory, peer, pairs)


def result(name: str, shape: str, compared: Compared) -> dict[str, Any]:
    """One experiment's figures, with every sample."""
    ratios = [other / ours for ours, other in zip(*compared, strict=True)]
    what, bar = EXPERIMENTS[name]
    return {
        "experiment": name, "what": " ".join((what.__doc__ or "").split()), "shape": shape, "bar": bar,
        "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "ratios": ratios,
        "ours_s": compared.ours, "other_s": compared.other,
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=",".join(EXPERIMENTS), help="experiments, by name")
    options.add_argument("--shapes", default=",".join(SHAPES), help="shapes of elm-mlx bench")
    options.add_argument("--pairs", type=int, default=5, help="pairs of runs, after one that warms up")
    options.add_argument("--json", type=Path, help=JSON_HELP)
    given = options.parse_args()
    elm_mlx.use_fast_blas()
    from elm_mlx.device.blas import blas_threads

    blas_threads()  # before the number for mlx-lm's process is set, which MKL would read here, too
    os.environ.update(MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    samples = Samples(SCHEMA, given.json, "experiment", "shape")
    for shape in given.shapes.split(","):
        with lab_for(shape, given.pairs) as lab:
            for name in given.only.split(","):
                found = result(name, shape, EXPERIMENTS[name][0](lab))
                print(f"{shape:<14} {name:<16} {found['ratio']:6.2f} ({found['min']:.2f} to {found['max']:.2f}), "
                      f"bar {found['bar']}", flush=True)  # fmt: skip
                samples.add(found)


if __name__ == "__main__":
    main()
