"""What a constraint costs: ratios of steps with constrained rows to steps without, in turns, every sample kept.

    python benchmarks/structured.py [--only NAME,...] [--pairs 5] [--blocks 12] [--json FILE]

Each experiment decodes the same prompts in two engines, a few steps at a time in turn: in one engine all rows are free,
in the other some have a constraint. Random weights in float32, steps as a GPU gets them (`--cpu-policy compiled`), the
BLAS in one thread, greedy, nothing reused. Counted are the processor time of the process and the time that passes, for
each token; prefill is not. The first is steadier on a busy machine, but does not see that a mask is computed while the
device works. Below 1, the engine with constraints took less.

A name is FAMILY-VOCABULARY-CONSTRAINT-ROWS, as in `llama-128k-cheap-8`. `openelm` has 32,000 logits and 20 layers,
`llama` 128,256 and 16 layers; both are narrow, 256 wide, so that the work beside the products shows. With several rows
every second one is constrained. Constraints:

- `cheap`: two masks that are ready, in turns, each of which allows about half of the ids in long runs.
- `llguidance`: an array of objects that never ends, over a made-up vocabulary of words (needs the extra `structure`).
- `slow`: a mask that takes 20 ms at every fourth id: what one slow mask costs the other rows.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from samples import JSON_HELP, Samples

import elm_mlx

SCHEMA = "elm-mlx structured 1"
WIDTH, BLOCK, PROMPT = 256, 8, 24
BARS = {
    "openelm-32k-cheap-1": 1.08, "llama-128k-cheap-1": 1.08, "openelm-32k-llguidance-1": 1.08,
    "llama-128k-llguidance-1": 1.08, "openelm-32k-cheap-8": 1.1, "llama-128k-cheap-8": 1.1,
    "openelm-32k-llguidance-8": 1.1, "llama-128k-llguidance-8": 1.1, "openelm-32k-slow-8": None,
}  # fmt: skip
VOCABULARIES = {"openelm-32k": 32_000, "llama-128k": 128_256}
ITEMS = {
    "type": "array", "minItems": 5000,
    "items": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer"},
                                               "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}}},
              "required": ["name", "age", "tags"], "additionalProperties": False},
}  # fmt: skip


class Cheap:
    """A constraint whose masks are ready."""

    def __init__(self, vocabulary: int, pause: float = 0.0) -> None:
        import numpy as np

        runs = np.arange(-(-vocabulary // 32)) // 16 % 2 == 0
        words = np.where(runs, 0xFFFFFFFF, 0x00010000).astype(np.uint32)
        self.masks, self.pause, self.length = (words, ~words), pause, 0

    def mask(self) -> Any:
        if self.pause and self.length % 4 == 0:
            time.sleep(self.pause)
        return self.masks[self.length % 2]

    def accept(self, token: int) -> None:
        self.length += 1

    def fork(self) -> Self:
        raise NotImplementedError("nothing is proposed here, so nothing is forked")


class Matching:
    """A constraint that asks llguidance itself."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        self.matcher, self.fill = matcher, fill_next_token_bitmask
        self.words = allocate_token_bitmask(1, vocabulary)
        self.seconds: list[float] = []

    def mask(self) -> Any:
        begun = time.perf_counter()
        self.fill(self.matcher, self.words)
        self.seconds.append(time.perf_counter() - begun)
        return self.words[0].view("uint32")

    def accept(self, token: int) -> None:
        assert self.matcher.consume_token(token)

    def fork(self) -> Self:
        raise NotImplementedError("nothing is proposed here, so nothing is forked")


class Words:
    """A made-up tokenizer, as llguidance asks for one: all bytes, and words of letters, with and without a space."""

    def __init__(self, size: int) -> None:
        rng, texts = random.Random(0), {bytes([byte]): None for byte in range(256)}
        while len(texts) < size - 1:
            word = "".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9)))
            texts[
                rng.choice([word, " " + word, word.title(), '"' + word, word + '"', str(rng.randrange(10**4))]).encode()
            ] = None
        self.tokens = [*texts, b"<end>"]
        self.eos_token_id, self.bos_token_id, self.special_token_ids = size - 1, None, [size - 1]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def matchers(vocabulary: int) -> Callable[[], Matching]:
    """What makes constraints of ITEMS."""
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    tokenizer = LLTokenizer(TokenizerWrapper(Words(vocabulary)))
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(ITEMS), defaults={"whitespace_flexible": False})
    matcher = LLMatcher(tokenizer, grammar)
    return lambda: Matching(matcher.deep_copy(), vocabulary)


def constraints(kind: str, vocabulary: int) -> Callable[[], Any]:
    """What makes constraints of a kind."""
    if kind == "llguidance":
        return matchers(vocabulary)
    return lambda: Cheap(vocabulary, 0.02 if kind == "slow" else 0.0)


class Spent(NamedTuple):
    """Seconds: of the processor, and that passed."""

    cpu: float
    wall: float


class Lab:
    """The loaded models, by family."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.models = stack, {}  # type: ignore[var-annotated]

    def model(self, name: str) -> Any:
        from elm_mlx.bench import shapes
        from elm_mlx.bench.random_model import random_model
        from elm_mlx.device.blas import blas_threads

        if name not in self.models:
            vocab = VOCABULARIES[name]
            made = (shapes.openelm(20, WIDTH, 32, divisor=32, vocab=vocab) if "openelm" in name else
                    shapes.llama(16, WIDTH, 8, 4 * WIDTH, kv_heads=2, vocab=vocab))  # fmt: skip
            shapes.SHAPES[name] = made
            directory = self.stack.enter_context(random_model(name, dtype="float32"))
            self.models[name] = self.stack.enter_context(elm_mlx.load(directory, cpu_policy="compiled"))
        blas_threads()[1](1)  # loading has set as many as the machine has
        return self.models[name]


def engine_for(lm: Any, rows: int, tokens: int, constraint: Callable[[], Any] | None) -> Any:
    """An engine that has begun to answer so many prompts, every second one, or the only one, with the constraint."""
    from elm_mlx.engine.budget import Budget
    from elm_mlx.engine.engine import Engine
    from elm_mlx.engine.limits import Limits
    from elm_mlx.engine.request import Request

    limits = Limits(lm.config.context_length, 1, Budget(2**40), rows, reuse=False)
    engine = Engine(lm.model, lm.config.num_layers, limits, lm.execution)
    answers = []
    for row in range(rows):
        prompt = tuple(random.Random(row).choices(range(2000), k=PROMPT))
        own = constraint if row % 2 == 0 else None
        answers.append(engine.submit(Request(prompt, tokens, find=False, keep=False, constraint=own)))
    while not all(answer.ids for answer in answers):
        engine.step()
    return engine


def in_turns(lab: Lab, name: str, blocks: int) -> tuple[Spent, Spent, list[float]]:
    """What the steps took without constraints and with them, in blocks of steps that take turns; and the seconds of
    each mask that llguidance made."""
    import mlx.core as mx

    family, size, kind, rows = name.split("-")
    lm, vocabulary = lab.model(f"{family}-{size}"), VOCABULARIES[f"{family}-{size}"]
    make = constraints(kind, vocabulary)
    made: list[Any] = []
    tokens = BLOCK * (blocks + 8) + 4 * int(rows)
    engines = [engine_for(lm, int(rows), tokens, None),
               engine_for(lm, int(rows), tokens, lambda: made.append(make()) or made[-1])]  # fmt: skip
    spent: list[list[Spent]] = [[], []]
    for number in range(blocks + 1):
        for which in (0, 1) if number % 2 else (1, 0):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            for _ in range(BLOCK):
                engines[which].step()
            mx.synchronize()
            spent[which].append(Spent(time.process_time() - begun_cpu, time.perf_counter() - begun))
    for engine in engines:
        assert all(one.finish is None for one in engine.running), [one.error for one in engine.running]
        assert len(engine.running) == int(rows)
        engine.close()
    free, held = (Spent(*map(statistics.median, zip(*one[1:], strict=True))) for one in spent)
    return free, held, [second for one in made if isinstance(one, Matching) for second in one.seconds]


def measure(lab: Lab, name: str, pairs: int, blocks: int) -> dict[str, Any]:
    """One experiment's figures, with every sample; the first run is not counted."""
    runs = [in_turns(lab, name, blocks) for _ in range(1 + pairs)][1:]
    ratios = {kind: [getattr(held, kind) / getattr(free, kind) for free, held, _ in runs] for kind in Spent._fields}
    masks = sorted(1e6 * second for _, _, seconds in runs for second in seconds)
    return {
        "experiment": name, "bar": BARS.get(name), "ratio": statistics.median(ratios["cpu"]),
        "wall_ratio": statistics.median(ratios["wall"]), "ratios": ratios,
        "free_ms": [1e3 * free.cpu / BLOCK for free, _, _ in runs],
        "constrained_ms": [1e3 * held.cpu / BLOCK for _, held, _ in runs],
        "mask_us": [masks[int(len(masks) * share)] for share in (0.5, 0.9, 0.99)] if masks else None,
    }  # fmt: skip


def line(found: dict[str, Any]) -> str:
    cpu, wall = found["ratios"]["cpu"], found["ratios"]["wall"]
    masks = "" if not found["mask_us"] else ", masks {:.0f} / {:.0f} / {:.0f} us".format(*found["mask_us"])
    return (f"{found['experiment']:<26} {found['ratio']:.3f} ({min(cpu):.3f} to {max(cpu):.3f}), time that passed "
            f"{found['wall_ratio']:.3f} ({min(wall):.3f} to {max(wall):.3f}), step {min(found['free_ms']):.2f} ms, bar "
            f"{found['bar']}{masks}")  # fmt: skip


@contextmanager
def open_lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=",".join(BARS), help="experiments, by name")
    options.add_argument("--pairs", type=int, default=5, help="pairs of runs, after one that warms up")
    options.add_argument("--blocks", type=int, default=12, help="blocks of 8 steps in a run")
    options.add_argument("--json", type=Path, help=JSON_HELP)
    given = options.parse_args()
    elm_mlx.use_fast_blas()
    samples = Samples(SCHEMA, given.json, "experiment")
    with open_lab() as lab:
        for name in given.only.split(","):
            found = measure(lab, name, given.pairs, given.blocks)
            print(line(found), flush=True)
            samples.add(found)


if __name__ == "__main__":
    main()
