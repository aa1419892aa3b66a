"""LoRA beside DoRA, as OpenELM's paper asks: speed and memory of training, loss of texts not learned, cost of decoding.

    python benchmarks/lora_dora.py [--random openelm-270m] [--steps 300] [--turn 10] [--batch 4] [--seeds 1]
                                   [--decode-steps 32] [--rounds 20] [--json FILE]

Both begin with the same arrays and learn the same batches: 300 letters of examples/tune_demo, with that example's rank,
scale and rate. They take turns of some steps; times are processor times of the whole process, and each ratio is taken
within a turn. Then the adapters' decode steps take turns with the plain one (adapters.py). The model is the demo in
float32, or a shape with random weights, whose losses say nothing of how good an adapter can be. The learning rate falls
as half a cosine. More `--seeds` train more pairs, of other beginnings and orders.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from statistics import median
from typing import Any

import elm_mlx
from elm_mlx.errors import NotFound

if __name__ == "__main__" and "mlx.core" not in sys.modules:
    with suppress(NotFound):  # some machines have none
        elm_mlx.use_fast_blas()

import adapters
import mlx.core as mx
from mlx.optimizers import Adam
from subject import opened

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.device.thread import on_device
from elm_mlx.files import readable_size
from elm_mlx.models.model import Model
from elm_mlx.models.rack import copies_of
from elm_mlx.store.load import LoadedModel, load_directory
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.order import Order
from elm_mlx.train.schedule import learning_rate
from elm_mlx.train.trainable import AdapterArrays, AdapterShape, Arrays
from elm_mlx.train.training import Training

EXAMPLES = Path(__file__).parents[1] / "examples"
RANK, SCALE, RATE, WARMUP = 8, 20.0, 6e-4, 5
KINDS = "lora", "dora"
SCHEMA = "elm-mlx lora dora 1"
Record = dict[str, Any]


class Learner:
    """One kind of adapter in training, beside a model of its own whose weights are the other's, too."""

    def __init__(self, model: Model, kind: str, seed: int) -> None:
        self.model = copy(model)
        self.model.blocks = copies_of(model.blocks)
        self.adapter = AdapterArrays(self.model, AdapterShape(RANK, SCALE, dora=kind == "dora"))
        self.optimizer = Adam(RATE)
        arrays = self.adapter.begin(mx.random.key(seed))
        mx.eval(arrays)
        self.training = Training(arrays, self.optimizer, self._loss)

    def take(self, steps: Sequence[tuple[float, list[Batch]]]) -> Record:
        """Takes steps, each of a rate and its batches: time, peak memory and the mean loss of them."""
        mx.clear_cache()
        mx.reset_peak_memory()
        processor, wall, losses = time.process_time(), time.perf_counter(), []
        for rate, batches in steps:
            self.optimizer.learning_rate = rate
            losses.append(self.training.step(batches))
        return {
            "processor_s": time.process_time() - processor,
            "wall_s": time.perf_counter() - wall,
            "peak": mx.get_peak_memory(),
            "loss": sum(losses) / len(losses),
        }

    def loss_of(self, batches: Sequence[Batch]) -> float:
        """The mean loss of a token of batches that are not learned."""
        total = 0.0
        for batch in batches:
            found = self._loss(self.training.arrays, batch)
            total += float(found.item())
        return total / sum(batch.targets for batch in batches)

    def _loss(self, arrays: Arrays, batch: Batch) -> mx.array:
        self.adapter.put(arrays)
        return summed_loss(self.model, batch.ids, batch.counts)


def examples_of(loaded: LoadedModel, count: int, first_seed: int) -> list[Example]:
    """Letters as examples."""
    sys.path.append(str(EXAMPLES / "tune_demo"))
    import letters

    texts = [one.written for one in letters.letters(count, first_seed)]
    rows = [(*loaded.tokenizer.encode(text), loaded.tokenizer.eos_token_id) for text in texts]
    return [Example(row, (True,) * (len(row) - 1)) for row in rows]


def train_pair(loaded: LoadedModel, seed: int, asked: argparse.Namespace) -> Record:
    """Trains both kinds in turns: a record of each turn, and the losses of letters that are not learned."""
    examples, held_out = examples_of(loaded, 300, 0), examples_of(loaded, asked.held_out, 2_000_000)
    order = Order([len(one.ids) for one in examples], asked.batch, 1, seed)
    learners = {kind: Learner(loaded.model, kind, seed) for kind in KINDS}
    measured = [batch_of(held_out[begin : begin + 8]) for begin in range(0, len(held_out), 8)]
    turns, held = [], [{"step": 0} | {kind: learners[kind].loss_of(measured) for kind in KINDS}]
    for begin in range(0, asked.steps, asked.turn):
        numbers = range(begin, min(begin + asked.turn, asked.steps))
        rates = [learning_rate("cosine", RATE, step, asked.steps, WARMUP) for step in numbers]
        batches = [[batch_of([examples[row] for row in rows]) for rows in order.rows(step)] for step in numbers]
        steps = [*zip(rates, batches, strict=True)]
        first = KINDS if len(turns) % 2 else KINDS[::-1]  # who begins changes: what is measured first may pay for it
        turns.append({"steps": len(steps)} | {kind: learners[kind].take(steps) for kind in first})
        if numbers[-1] + 1 == asked.steps or len(turns) % 8 == 0:
            held.append({"step": numbers[-1] + 1} | {kind: learners[kind].loss_of(measured) for kind in KINDS})
    trained = {kind: sum(array.size for array in one.training.arrays.values()) for kind, one in learners.items()}
    return {"seed": seed, "turns": turns, "held_out": held, "trained": trained}


def decode(directory: Path, steps: int, rounds: int) -> adapters.Samples:
    """The seconds of a decode step without an adapter, and with each kind."""
    with elm_mlx.load(directory) as lm, tempfile.TemporaryDirectory() as folder:
        numbers = {
            kind: adapters.load_made(
                lm,
                Path(folder),
                kind,
                lambda kind=kind: adapters.made(lm, 0, lengths=kind == "dora"),  # type: ignore[misc]
            )
            for kind in KINDS
        }
        variants = lm.variants
        ways: dict[str, adapters.Way] = {"none": (lambda: variants.plain, 1)}
        ways |= {kind: (lambda kind=kind: variants.of(numbers[kind]), 1) for kind in KINDS}  # type: ignore[misc]
        return on_device(lambda _: adapters.measure(ways, lm.config.num_layers, steps, rounds))


def table(pairs: Sequence[Record], samples: adapters.Samples) -> str:
    """All of it as one table; ratios are medians over turns, with the least and the largest."""
    turns = [turn for pair in pairs for turn in pair["turns"][1:]] or pairs[0]["turns"]  # the first warms up
    rows = [("trained numbers", *(f"{pairs[0]['trained'][kind]:,}" for kind in KINDS), "")]
    paces = {kind: median(turn["steps"] / turn[kind]["processor_s"] for turn in turns) for kind in KINDS}
    each = [turn["lora"]["processor_s"] / turn["dora"]["processor_s"] for turn in turns]
    rows.append(("steps a second of processor time", *(f"{paces[kind]:.2f}" for kind in KINDS), spread(each)))
    peaks = {kind: max(turn[kind]["peak"] for turn in turns) for kind in KINDS}
    rows.append(("peak memory", *map(readable_size, peaks.values()), f"{peaks['dora'] / peaks['lora']:.3f}"))
    last = [pair["held_out"][-1] for pair in pairs]
    rows.append(("loss of letters not learned, nats a token",
                 *(" ".join(f"{one[kind]:.4f}" for one in last) for kind in KINDS),
                 spread([one["dora"] / one["lora"] for one in last])))  # fmt: skip
    costs = {kind: [one / none for one, none in zip(samples[kind], samples["none"], strict=True)] for kind in KINDS}
    own = [one / other for one, other in zip(samples["dora"], samples["lora"], strict=True)]
    rows.append(("a decode step over one without an adapter", *(spread(costs[kind]) for kind in KINDS), spread(own)))
    lines = ["| | LoRA | DoRA | DoRA / LoRA |", "|---|--:|--:|--:|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def spread(ratios: Sequence[float]) -> str:
    """The median of ratios, with the least and the largest."""
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    """Trains, measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", choices=[*SHAPES], help="a shape with random weights; default: the demo")
    defaults = {"steps": 300, "turn": 10, "batch": 4, "seeds": 1, "held-out": 60, "decode-steps": 32, "rounds": 20}
    for name, number in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--json", type=Path, help="a file for all samples")
    asked = parser.parse_args()
    with opened(asked.random) as directory:
        loaded = load_directory(directory)
        pairs = [train_pair(loaded, seed, asked) for seed in range(asked.seeds)]
        del loaded
        samples = decode(directory, asked.decode_steps, asked.rounds)
    print(table(pairs, samples))
    if asked.json:
        facts = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(asked).items()}
        found = {"schema": SCHEMA, "asked": facts, "pairs": pairs, "decode": samples}
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
