"""Several short rows in one sequence beside rows sorted by length: an epoch of each in turns, every sample kept.

    python benchmarks/packing.py [--model DIR] [--rows 64] [--batch 8] [--rounds 3] [--json FILE]

The rows are stories that the demo was not trained on, cut at lengths drawn evenly between an eighth and all of 128
tokens. A packed sequence is as long as the longest row; no row attends to another one in it, by a mask of its own
beside the causal one, and the positions go on, which changes nothing, as RoPE looks at differences alone. Both ways
learn the same targets; ratios are of processor time, sorted over packed, so above 1 packing is quicker. That both give
the same loss is checked first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from elm_mlx.demo import demo_directory
from elm_mlx.models.model import Model
from elm_mlx.store.load import LoadedModel, load_directory
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.order import epoch_order
from elm_mlx.train.trainable import AdapterArrays, AdapterShape
from elm_mlx.train.training import Arrays, Targets, Training

LONGEST, RATE = 128, 1e-4
SCHEMA = "elm-mlx packing 1"


@dataclass(frozen=True)
class Packed:
    """A layer of a model without a cache: [B, 1, L, L] says which positions each one attends to."""

    mask: mx.array
    offset: int = 0

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Attention within rows."""
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[3] ** -0.5, mask=self.mask)


@dataclass(frozen=True)
class PackedBatch:
    """Sequences of several rows: `ids` and `next_ids` [B, L], `counts` [B, L] of 0 and 1, `mask` [B, 1, L, L]."""

    ids: mx.array
    next_ids: mx.array
    counts: mx.array
    mask: mx.array
    targets: int


def packed_batch(sequences: Sequence[Sequence[Example]]) -> PackedBatch:
    """Some sequences as arrays. Each row gives its ids but the last one."""
    length = max(sum(len(row.ids) - 1 for row in sequence) for sequence in sequences)
    shape = len(sequences), length
    ids, following, counts = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    owner = np.full(shape, -1)
    for line, sequence in enumerate(sequences):
        at = 0
        for number, row in enumerate(sequence):
            end = at + len(row.ids) - 1
            ids[line, at:end], following[line, at:end] = row.ids[:-1], row.ids[1:]
            counts[line, at:end], owner[line, at:end], at = row.counts, number, end
    mask = (owner[:, :, None] == owner[:, None]) & np.tri(length, dtype=bool)
    arrays = mx.array(ids), mx.array(following), mx.array(counts), mx.array(mask[:, None])
    return PackedBatch(*arrays, int(counts.sum()))


def packed_loss(model: Model, batch: PackedBatch) -> mx.array:
    """The sum of -log p over the targets that count."""
    layers = [Packed(batch.mask)] * len(model.blocks)
    logits = model.head(model.hidden(batch.ids, layers)).astype(mx.float32)
    chosen = mx.take_along_axis(logits, batch.next_ids[..., None], axis=-1).squeeze(-1)
    return ((mx.logsumexp(logits, axis=-1) - chosen) * batch.counts).sum()


def pack(rows: Sequence[Example], size: int) -> list[list[Example]]:
    """Rows in sequences of at most `size` targets: the longest first, each where it fits first."""
    sequences: list[list[Example]] = []
    left: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        need = len(row.ids) - 1
        place = next((at for at, room in enumerate(left) if room >= need), None)
        if place is None:
            place = len(left)
            sequences.append([])
            left.append(size)
        sequences[place].append(row)
        left[place] -= need
    return sequences


def made_rows(loaded: LoadedModel, count: int) -> list[Example]:
    """Stories of the demo's held-out text, repeated and cut at lengths that a seed gives."""
    text = (demo_directory() / "held_out.txt").read_text(encoding="utf-8")
    ids = loaded.tokenizer.encode(text)
    random = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        length, begin = int(random.integers(LONGEST // 8, LONGEST + 1)), int(random.integers(0, len(ids) - LONGEST - 1))
        rows.append(Example((1, *ids[begin : begin + length]), (True,) * length))
    return rows


def main() -> None:
    """Measures in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=demo_directory())
    for name, number in (("rows", 64), ("batch", 8), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    loaded = load_directory(asked.model)
    rows = made_rows(loaded, asked.rows)
    in_order = [[rows[row] for row in batch]
                for batch in epoch_order([len(row.ids) for row in rows], asked.batch, 0, 0)]  # fmt: skip
    sequences = pack(rows, LONGEST)
    groups = [sequences[begin : begin + asked.batch] for begin in range(0, len(sequences), asked.batch)]
    sorted_batches, packed_batches = [batch_of(one) for one in in_order], [packed_batch(one) for one in groups]
    adapter = AdapterArrays(loaded.model, AdapterShape())
    begin = adapter.begin(mx.random.key(0))

    def sorted_sum(arrays: Arrays, batch: Batch) -> mx.array:
        adapter.put(arrays)
        return summed_loss(loaded.model, batch.ids, batch.counts)

    def packed_sum(arrays: Arrays, batch: PackedBatch) -> mx.array:
        adapter.put(arrays)
        return packed_loss(loaded.model, batch)

    check(sum(sorted_sum(begin, one).item() for one in sorted_batches),
          sum(packed_sum(begin, one).item() for one in packed_batches))  # fmt: skip
    ways = {"sorted": (Training(dict(begin), optimizers.Adam(RATE), sorted_sum), sorted_batches),
            "packed": (Training(dict(begin), optimizers.Adam(RATE), packed_sum), packed_batches)}  # fmt: skip
    for name, (_, batches) in ways.items():
        cells = sum(one.ids.size - (len(one.ids) if name == "sorted" else 0) for one in batches)
        padding = 1 - sum(one.targets for one in batches) / cells
        print(f"{name}: {len(batches)} steps, {padding:.1%} of cells are padding", flush=True)
    samples = [{name: timed(*way) for name, way in ways.items()} for _ in range(asked.rounds + 1)][1:]
    for figure in ("processor_s", "wall_s", "peak"):
        ratios = [one["sorted"][figure] / one["packed"][figure] for one in samples]
        print(f"{figure:<12} sorted / packed {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if asked.json:
        facts = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(asked).items()}
        asked.json.write_text(json.dumps({"schema": SCHEMA, "asked": facts, "samples": samples}, indent=1))


def check(one: float, other: float) -> None:
    """Ends the program where both ways have different losses."""
    if abs(one - other) > 1e-4 * one:
        raise SystemExit(f"The losses differ: {one} sorted, {other} packed.")


def timed(training: Training, batches: Sequence[Targets]) -> dict[str, float]:
    """Processor and wall seconds of a step of each batch, and the most bytes that MLX held."""
    mx.clear_cache()
    mx.reset_peak_memory()
    processor, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        training.step([batch])
    return {
        "processor_s": time.process_time() - processor,
        "wall_s": time.perf_counter() - wall,
        "peak": mx.get_peak_memory(),
    }


if __name__ == "__main__":
    main()
