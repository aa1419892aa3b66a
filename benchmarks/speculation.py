"""What speculation gains: ratios of answers that are decoded in turn, plain and with proposals, every sample kept.

    python benchmarks/speculation.py [--only NAME,...] [--pairs 5] [--json FILE]

Each experiment decodes one answer twice, a few tokens at a time in turn, and counts the processor time of the process
in each turn: float32 weights, steps as a GPU gets them (`--cpu-policy compiled`), the BLAS in one thread. Above 1, the
answer with proposals took less. Prefill and what the gate measures once are not counted.

- `demo-K`: the built-in demo and its draft continue stories that they have not seen, with K proposals a round.
- `oracle-A-K`, `oracle-A-gate`: random weights, a target of 28 layers and a draft of 4, both 64 wide. What the target
  answers is written down beforehand (Scripted), and the draft computes as ever, but its proposals are replaced by ids
  that are right with probability A. K is the number of proposals, or the gate decides.
- `lookup-copies`: the answer repeats parts of 40 tokens of its prompt, with 3 new tokens between them.
- `lookup-prose`: the answer is held-out text of the demo, which copies nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import elm_mlx

SCHEMA = "elm-mlx speculation 1"
VOCAB = 2048
BLOCK = 8  # tokens that one of the two answers gets while the other waits
PROMPT, ORACLE_PROMPT, ANSWER = 128, 16, 300  # ids of made-up texts
DEMO_PROMPTS, DEMO_PROMPT, DEMO_ANSWER = 4, 32, 64
COPY, NEW = 40, 3
BARS = {
    "demo-1": 1.3, "demo-2": 1.3, "oracle-0.8-4": 1.8, "oracle-0.9-gate": 2.0, "oracle-0.1-gate": 0.95,
    "oracle-0.3-gate": 0.95, "oracle-0.5-gate": 0.95, "oracle-0.7-gate": 0.95, "lookup-copies": 1.5,
    "lookup-prose": 0.98,
}  # fmt: skip


class Task(NamedTuple):
    """A prompt, the tokens to decode, and what makes an engine for them, with proposals or without, by a seed."""

    prompt: list[int]
    tokens: int
    engine: Callable[[bool, int], Any]
    lookup: bool = False


class Scripted:
    """A model that computes as ever and then gives the ids of a text, so that the answer is known beforehand."""

    def __init__(self, model: Any, text: Sequence[int]) -> None:
        import mlx.core as mx

        self.model, self.text = model, mx.array([*text, *[0] * 16])
        self.rows = 1e4 * mx.eye(VOCAB)
        self.start, self.count = 0, 1
        mx.eval(self.text, self.rows)

    def hidden(self, ids: Any, cache: Any) -> Any:
        return self.model.hidden(ids, cache)

    def last_hidden(self, ids: Any, cache: Any) -> Any:
        self.start, self.count = cache[0].offset + ids.shape[1], 1
        return self.model.last_hidden(ids, cache)

    def few_hidden(self, ids: Any, cache: Any) -> Any:
        self.start, self.count = cache[0].offset + 1, ids.shape[1]
        return self.model.few_hidden(ids, cache)

    def head(self, states: Any) -> Any:
        logits = self.model.head(states)
        return logits + self.rows[self.text[self.start : self.start + self.count]]


def oracle_begin(draft: Any, text: list[int], share: float, gate: Callable[[], Any], seed: int, sequence: Any) -> Any:
    """Speculation.begin with a draft that works, and whose proposals are replaced."""
    import mlx.core as mx

    from elm_mlx.engine.draft import DraftProposer
    from elm_mlx.engine.speculate import Speculator

    rng = random.Random(seed)

    class Oracle(DraftProposer):
        def propose(self, most: int) -> Any:
            drafted = super().propose(most)
            place = len(self.ids)
            right = [*text[place : place + most], *[0] * most][:most]
            told = [one if rng.random() < share else (one + 1) % VOCAB for one in right]
            return mx.array(told, mx.uint32) + 0 * drafted

    return Speculator(sequence, Oracle(draft, sequence.positions), gate)


def engine_for(lm: Any, model: Any, speculation: Any = None) -> Any:
    """An engine of a loaded model, with nothing kept for later."""
    from elm_mlx.engine.budget import Budget
    from elm_mlx.engine.engine import Engine
    from elm_mlx.engine.limits import Limits

    limits = Limits(lm.config.context_length, 1, Budget(2**40), 1, reuse=False)
    return Engine(model, lm.config.num_layers, limits, lm.execution, speculation)


def in_turns(task: Task, seed: int) -> tuple[float, float]:
    """Processor seconds of the answer (plain, with proposals), decoded in blocks that take turns."""
    import mlx.core as mx

    from elm_mlx.engine.request import Request

    engines = [task.engine(False, seed), task.engine(True, seed)]
    answers = [engine.submit(Request(tuple(task.prompt), task.tokens, find=False, keep=False, lookup=task.lookup and
                                     which == 1)) for which, engine in enumerate(engines)]  # fmt: skip
    for engine, answer in zip(engines, answers, strict=True):
        while not answer.ids:
            engine.step()
    mx.synchronize()
    spent, place = [0.0, 0.0], 0
    while place < task.tokens:
        place += BLOCK
        for which in (0, 1) if place // BLOCK % 2 else (1, 0):
            begun = time.process_time()
            while engines[which].has_work and len(answers[which].ids) < place:
                engines[which].step()
            mx.synchronize()
            spent[which] += time.process_time() - begun
    assert answers[0].ids == answers[1].ids, "speculation changed the answer"
    for engine in engines:
        engine.close()
    return spent[0], spent[1]


class Lab:
    """The loaded models."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.models: dict[str, Any] = {}

    def demo(self, name: str) -> Any:
        """The demo, or its draft, in float32."""
        from elm_mlx.convert import convert
        from elm_mlx.demo import demo_directory

        if name not in self.models:
            source = demo_directory() / ("draft" if name == "draft" else "")
            output = convert(source, self.folder / name, dtype="float32").output
            self.models[name] = self.load(output)
        return self.models[name]

    def narrow(self, layers: int) -> Any:
        """Random weights of so many layers, 64 wide."""
        from elm_mlx.bench.random_model import random_model
        from elm_mlx.bench.shapes import SHAPES, openelm

        name = f"openelm-{layers}x64"
        if name not in self.models:
            SHAPES[name] = openelm(layers, 64, 16, divisor=16, vocab=VOCAB)
            self.models[name] = self.load(self.stack.enter_context(random_model(name, dtype="float32")))
        return self.models[name]

    def load(self, directory: Path) -> Any:
        from elm_mlx.device.blas import blas_threads

        lm = self.stack.enter_context(elm_mlx.load(directory, cpu_policy="compiled"))
        blas_threads()[1](1)  # loading has set as many as the machine has
        return lm

    def held_out(self) -> str:
        """The demo's held-out text, a story a line."""
        from elm_mlx.demo import demo_directory

        return (demo_directory() / "held_out.txt").read_text("utf-8")


def demo_tasks(lab: Lab, count: int) -> list[Task]:
    from elm_mlx.api.drafts import draft_of
    from elm_mlx.engine.speculate import Speculation

    lm, second = lab.demo("demo"), lab.demo("draft")
    draft, stories = draft_of(loaded(second)), lab.held_out().splitlines()[:DEMO_PROMPTS]

    def engine(with_proposals: bool, _seed: int) -> Any:
        speculation = Speculation(lm.model, lm.config.num_layers, draft, costs={count: 1e-9})
        return engine_for(lm, lm.model, speculation if with_proposals else None)

    return [Task(lm.tokenizer.encode(story)[:DEMO_PROMPT], DEMO_ANSWER, engine) for story in stories]


def loaded(lm: Any) -> Any:
    """What `draft_of` reads of a loaded model."""
    return argparse.Namespace(config=lm.config, held=lm.config, runs=lm.model, execution=lm.execution)


def oracle_tasks(lab: Lab, share: float, count: int | None) -> list[Task]:
    from elm_mlx.api.drafts import draft_of
    from elm_mlx.engine.gate import Gate
    from elm_mlx.engine.speculate import Speculation

    lm, second = lab.narrow(28), lab.narrow(4)
    text = random.Random(0).choices(range(VOCAB), k=ORACLE_PROMPT + ANSWER)
    model, draft = Scripted(lm.model, text), draft_of(loaded(second))
    costs = Speculation(model, lm.config.num_layers, draft).draft_costs if count is None else {count: 1e-9}
    print(f"  rounds in plain steps: { {k: round(v, 2) for k, v in costs.items()} }", flush=True)

    def engine(with_proposals: bool, seed: int) -> Any:
        speculation = Speculation(model, lm.config.num_layers, draft, costs=costs)
        speculation.begin = partial(oracle_begin, draft, text, share, lambda: Gate(costs), seed)  # type: ignore[method-assign]
        return engine_for(lm, model, speculation if with_proposals else None)

    return [Task(text[:ORACLE_PROMPT], ANSWER, engine)]


def lookup_tasks(lab: Lab, text: list[int]) -> list[Task]:
    from elm_mlx.engine.speculate import Speculation

    lm = lab.narrow(28)
    model = Scripted(lm.model, text)
    speculation = Speculation(model, lm.config.num_layers)
    print(f"  rounds in plain steps: { {k: round(v, 2) for k, v in speculation.lookup_costs.items()} }", flush=True)

    def engine(_with_proposals: bool, _seed: int) -> Any:
        return engine_for(lm, model, speculation)

    return [Task(text[:PROMPT], ANSWER, engine, lookup=True)]


def copying() -> list[int]:
    """A prompt of random ids, and an answer that repeats parts of it."""
    rng = random.Random(0)
    text = rng.choices(range(VOCAB), k=PROMPT)
    while len(text) < PROMPT + ANSWER:
        start = rng.randrange(PROMPT - COPY)
        text += [*text[start : start + COPY], *rng.choices(range(VOCAB), k=NEW)]
    return text[: PROMPT + ANSWER]


def tasks_of(lab: Lab, name: str) -> list[Task]:
    """What an experiment decodes."""
    kind, *more = name.split("-")
    if kind == "demo":
        return demo_tasks(lab, int(more[0]))
    if kind == "oracle":
        return oracle_tasks(lab, float(more[0]), None if more[1] == "gate" else int(more[1]))
    prose = lab.demo("demo").tokenizer.encode(lab.held_out())[: PROMPT + ANSWER]
    return lookup_tasks(lab, copying() if more[0] == "copies" else prose)


@contextmanager
def open_lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Lab(Path(folder), stack)


def measure(lab: Lab, name: str, pairs: int) -> dict[str, Any]:
    """One experiment's figures, with every sample; the first run is not counted."""
    tasks = tasks_of(lab, name)
    runs = []
    for seed in range(1 + pairs):
        each = [in_turns(task, seed) for task in tasks]
        runs.append((sum(one for one, _ in each), sum(other for _, other in each)))
    return result(name, runs[1:])


def result(name: str, runs: list[tuple[float, float]]) -> dict[str, Any]:
    """The figures of pairs of runs, plain and with proposals, in seconds."""
    plain, proposals = zip(*runs, strict=True)
    ratios = [one / other for one, other in runs]
    return {
        "experiment": name, "bar": BARS.get(name), "ratio": statistics.median(ratios), "min": min(ratios),
        "max": max(ratios), "ratios": ratios, "plain_s": list(plain), "proposals_s": list(proposals),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=",".join(BARS), help="experiments, by name")
    options.add_argument("--pairs", type=int, default=5, help="pairs of runs, after one that warms up")
    options.add_argument("--json", type=Path, help="a file for all samples; experiments that it has already stay in it")
    given = options.parse_args()
    elm_mlx.use_fast_blas()
    from elm_mlx.bench.facts import machine_facts, software_facts

    results = json.loads(given.json.read_text())["results"] if given.json and given.json.exists() else []
    with open_lab() as lab:
        for name in given.only.split(","):
            found = measure(lab, name, given.pairs)
            print(f"{name:<16} {found['ratio']:6.2f} ({found['min']:.2f} to {found['max']:.2f}), bar {found['bar']}",
                  flush=True)  # fmt: skip
            results = [one for one in results if one["experiment"] != name] + [found]
            if given.json:
                report = {"schema": SCHEMA, "machine": machine_facts(), "software": software_facts()}
                given.json.write_text(json.dumps(report | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
