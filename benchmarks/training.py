"""Training beside mlx-lm's tuner: steps a second and peak memory, in turns in one process, every sample kept.

    python benchmarks/training.py [--model DIR | --random openelm-270m] [--kind lora|dora] [--rounds 5] [--steps 4]
                                  [--batch 4] [--length 128] [--stories 64] [--json FILE]

Both learn the same batches from the same arrays in float32, and theirs runs its loss and optimizer uncompiled: a
compiled step builds a program a shape on MLX's CPU backend. A round is `--steps` steps of one and then of the other;
ratios are of processor time, theirs over ours, so above 1 ours took less. With `--stories` a round is an epoch of so
many of the demo's held-out stories, each side with its own batches of them (ours sorted by length, theirs as its
iterate_batches makes them), and what counts is the time for each token that is in a story. Needs the extra mlx-lm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import elm_mlx
from elm_mlx.errors import NotFound

if __name__ == "__main__" and "mlx.core" not in sys.modules:
    with suppress(NotFound):  # some machines have none
        elm_mlx.use_fast_blas()

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_unflatten
from subject import opened

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.demo import demo_directory
from elm_mlx.store.load import load_directory, load_tokenizer, read_config
from elm_mlx.store.text_settings import read_settings
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.order import epoch_order
from elm_mlx.train.trainable import AdapterArrays, AdapterShape, Arrays
from elm_mlx.train.training import Training

RANK, SCALE, RATE = 8, 20.0, 1e-4
SCHEMA = "elm-mlx training 2"
Step = Callable[[Batch], float]


def our_step(directory: Path, *, dora: bool) -> tuple[Step, Arrays]:
    """Our step, and the arrays that both begin with."""
    model = load_directory(directory, "plain").model
    adapter = AdapterArrays(model, AdapterShape(RANK, SCALE, dora))
    begin = adapter.begin(mx.random.key(0))

    def loss(arrays: Arrays, batch: Batch) -> mx.array:
        adapter.put(arrays)
        return summed_loss(model, batch.ids, batch.counts)

    training = Training(dict(begin), optimizers.Adam(RATE), loss)
    return lambda batch: training.step([batch]), begin


def their_step(directory: Path, begin: Arrays, *, dora: bool) -> Step:
    """The step of mlx-lm's tuner, uncompiled."""
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model: Any = load_model(directory)[0]
    model.freeze()
    layout = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    linear_to_lora_layers(model, len(model.layers), layout, use_dora=dora)
    model.update(tree_unflatten(list(begin.items())))
    optimizer, differentiate = optimizers.Adam(RATE), nn.value_and_grad(model, default_loss)

    def step(batch: Batch) -> float:
        ends = batch.counts.sum(-1, keepdims=True)  # its trainer charges each row for one id of padding more
        (loss, _), gradients = differentiate(model, batch.ids, mx.concatenate([mx.zeros_like(ends), ends], -1))
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        return float(loss.item())

    return step


def made_batches(count: int, rows: int, length: int, vocabulary: int) -> list[Batch]:
    """Batches of ids that mean nothing, all of one length, so that both learn the same targets."""
    random = np.random.default_rng(0)
    ids = random.integers(3, vocabulary, (count, rows, length + 1)).tolist()
    return [batch_of([Example(tuple(row), (True,) * length) for row in batch]) for batch in ids]


def told_stories(directory: Path) -> list[Example]:
    """The demo's held-out stories as examples."""
    tokenizer = load_tokenizer(directory, read_settings(directory), read_config(directory))
    texts = (demo_directory() / "held_out.txt").read_text(encoding="utf-8").splitlines()
    rows = [(*tokenizer.encode(text), tokenizer.eos_token_id) for text in texts]
    return [Example(row, (True,) * (len(row) - 1)) for row in rows]


def their_batches(examples: Sequence[Example], size: int) -> list[Batch]:
    """An epoch in the batches of mlx-lm's own iterator, of rows as its data sets hold them before they are read."""
    from mlx_lm.tuner.datasets import CacheDataset
    from mlx_lm.tuner.trainer import iterate_batches

    class Rows(list[dict[str, Any]]):
        def process(self, row: dict[str, Any]) -> tuple[list[int], int]:
            return row["text"], 0

    rows = CacheDataset(Rows({"text": list(example.ids)} for example in examples))
    batches = []
    for ids, lengths in iterate_batches(rows, size, 2048, seed=0):
        counts = (mx.arange(ids.shape[1] - 1) < lengths[:, 1:] - 1).astype(mx.float32)
        batches.append(Batch(ids, counts, int(counts.sum().item())))
    return batches


def our_batches(examples: Sequence[Example], size: int) -> list[Batch]:
    """An epoch in our batches."""
    order = epoch_order([len(example.ids) for example in examples], size, 0, 0)
    return [batch_of([examples[row] for row in rows]) for rows in order]


def timed(step: Step, batches: list[Batch]) -> dict[str, float]:
    """Processor and wall seconds for each token of some steps, the most bytes that MLX held, and the last loss."""
    mx.clear_cache()
    mx.reset_peak_memory()
    processor, wall = time.process_time(), time.perf_counter()
    losses = [step(batch) for batch in batches]
    tokens = sum(batch.targets for batch in batches)
    return {
        "processor_s": (time.process_time() - processor) / tokens,
        "wall_s": (time.perf_counter() - wall) / tokens,
        "peak": mx.get_peak_memory(),
        "loss": losses[-1],
    }


def measure(directory: Path, asked: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """The samples of both, a pair a round; the first round warms up and is left out."""
    dora = asked.kind == "dora"
    mine, begin = our_step(directory, dora=dora)
    steps = {"ours": mine, "theirs": their_step(directory, begin, dora=dora)}
    if asked.stories:
        examples = told_stories(directory)[: asked.stories]
        batches = {"ours": our_batches(examples, asked.batch), "theirs": their_batches(examples, asked.batch)}
    else:
        same = made_batches(asked.steps, asked.batch, asked.length, read_config(directory).vocab_size)
        batches = dict.fromkeys(steps, same)
    return [{who: timed(step, batches[who]) for who, step in steps.items()} for _ in range(asked.rounds + 1)][1:]


def main() -> None:
    """Measures in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a directory; default: the demo in float32")
    parser.add_argument("--random", choices=[*SHAPES], help="or a shape with random weights, in float32")
    parser.add_argument("--kind", choices=["lora", "dora"], default="lora")
    parser.add_argument("--stories", type=int, default=0, help="instead an epoch of so many of its 64 stories a round")
    for name, number in (("rounds", 5), ("steps", 4), ("batch", 4), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--json", type=Path, help="a file for all samples")
    asked = parser.parse_args()
    with opened(asked.random, asked.model) as directory:
        samples = measure(directory, asked)
    for figure in ("processor_s", "wall_s", "peak"):
        ratios = [one["theirs"][figure] / one["ours"][figure] for one in samples]
        print(f"{figure:<12} theirs / ours {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print("losses      ", {who: round(one["loss"], 5) for who, one in samples[-1].items()})
    if asked.json:
        facts = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(asked).items()}
        asked.json.write_text(json.dumps({"schema": SCHEMA, "asked": facts, "samples": samples}, indent=1) + "\n")


if __name__ == "__main__":
    main()
