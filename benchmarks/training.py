"""Training beside mlx-lm's tuner: steps a second and peak memory, in turns in one process, every sample kept.

    python benchmarks/training.py [--model DIR] [--kind lora|dora] [--rounds 5] [--steps 4] [--batch 4] [--length 128]
                                  [--json FILE]

Both learn the same batches from the same arrays in float32, and theirs runs its loss and optimizer uncompiled: a
compiled step builds a program a shape on MLX's CPU backend. A round is `--steps` steps of one and then of the other;
ratios are of processor time, theirs over ours, so above 1 ours took less. Needs the extra mlx-lm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_unflatten

from elm_mlx.demo import demo_directory
from elm_mlx.store.load import load_directory
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.trainable import AdapterArrays, AdapterShape, Arrays
from elm_mlx.train.training import Training

RANK, SCALE, RATE = 8, 20.0, 1e-4
SCHEMA = "elm-mlx training 1"
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
        (loss, _), gradients = differentiate(model, batch.ids, mx.array([[0, batch.ids.shape[1]]] * len(batch.ids)))
        optimizer.update(model, gradients)
        mx.eval(loss, model.parameters(), optimizer.state)
        return float(loss.item())

    return step


def made_batches(count: int, rows: int, length: int, vocabulary: int) -> list[Batch]:
    """Batches of ids that mean nothing, all of one length, so that both learn the same targets."""
    random = np.random.default_rng(0)
    ids = random.integers(3, vocabulary, (count, rows, length + 1)).tolist()
    return [batch_of([Example(tuple(row), (True,) * length) for row in batch]) for batch in ids]


def timed(step: Step, batches: list[Batch]) -> dict[str, float]:
    """Processor and wall seconds of some steps, the most bytes that MLX held, and the last loss."""
    mx.clear_cache()
    mx.reset_peak_memory()
    processor, wall = time.process_time(), time.perf_counter()
    losses = [step(batch) for batch in batches]
    return {
        "processor_s": time.process_time() - processor,
        "wall_s": time.perf_counter() - wall,
        "peak": mx.get_peak_memory(),
        "loss": losses[-1],
    }


def main() -> None:
    """Measures in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=demo_directory())
    parser.add_argument("--kind", choices=["lora", "dora"], default="lora")
    for name, number in (("rounds", 5), ("steps", 4), ("batch", 4), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    dora = asked.kind == "dora"
    mine, begin = our_step(asked.model, dora=dora)
    steps = {"ours": mine, "theirs": their_step(asked.model, begin, dora=dora)}
    vocabulary = json.loads((asked.model / "config.json").read_text())["vocab_size"]
    batches = made_batches(asked.steps, asked.batch, asked.length, vocabulary)
    samples = [{who: timed(step, batches) for who, step in steps.items()} for _ in range(asked.rounds + 1)][1:]
    for figure in ("processor_s", "wall_s", "peak"):
        ratios = [one["theirs"][figure] / one["ours"][figure] for one in samples]
        print(f"{figure:<12} theirs / ours {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print("losses      ", [round(samples[-1][who]["loss"], 5) for who in steps])
    if asked.json:
        facts = {name: str(value) for name, value in vars(asked).items()}
        asked.json.write_text(json.dumps({"schema": SCHEMA, "asked": facts, "samples": samples}, indent=1))


if __name__ == "__main__":
    main()
