"""What does not change as a training goes on: its memory, what is compiled, and what its seed gives."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints

from elm_mlx.errors import NotFinite
from elm_mlx.models.blocks import silu_gate
from elm_mlx.store.load import load_directory
from elm_mlx.train import job, train
from elm_mlx.train.examples import Batch, Example, batch_of
from elm_mlx.train.job import Step
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.schedule import learning_rate
from elm_mlx.train.trainable import AdapterArrays, AdapterShape, Arrays

SHORT: dict[str, Any] = {"batch_size": 2, "steps": 6, "save_every": 2, "rank": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    texts = [f"{'so ' * number}it went" for number in range(1, 12)]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    (folder / "valid.jsonl").write_text(rows, encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_training_is_its_seeds(data: Path, openelm: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        train(data, tmp_path / name, openelm, seed=seed, **SHORT)
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    for name in ("adapters.safetensors", "losses.jsonl"):
        assert contents(tmp_path / "one")[name] != contents(tmp_path / "other")[name]


def test_validation_is_a_mean_over_tokens_however_rows_are_batched(data: Path, openelm: Path, tmp_path: Path) -> None:
    """Long rows count more than short ones; a mean of batches' means would depend on the batches."""
    found = []
    for size in (1, 3, 16):
        train(data, tmp_path / str(size), openelm, **SHORT | {"batch_size": size, "steps": 1})
        first = json.loads((tmp_path / str(size) / "losses.jsonl").read_text().splitlines()[0])
        found.append(first["valid_loss"])
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)


def test_nan_stops_with_a_sentence_and_loses_nothing(
    data: Path, openelm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before it stays, and a training that goes on from there ends as one that had no NaN."""
    train(data, tmp_path / "whole", openelm, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(job, "learning_rate", lambda *asked: float("nan") if asked[2] == 2 else learning_rate(*asked))
        with pytest.raises(NotFinite, match=r"The loss of step 4 is nan; the last checkpoint is as it was.*warmup"):
            train(data, tmp_path / "nan", openelm, **SHORT)
    train(data, tmp_path / "nan", openelm, resume=True, **SHORT)
    assert contents(tmp_path / "nan") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(data: Path, openelm: Path, tmp_path: Path) -> None:
    """After the first epoch nothing is kept that was not before: each batch has come once."""
    held: list[int] = []
    peaks: list[int] = []

    def look(step: Step) -> None:
        held.append(mx.get_active_memory())
        peaks.append(step.memory)

    train(data, tmp_path / "out", openelm, report=look, **SHORT | {"steps": 36})
    assert max(held[18:]) <= max(held[6:18])
    assert peaks[-1] <= 1.02 * peaks[12]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_compiles_nothing(openelm: Path, compiled: bool) -> None:
    """Not even where the gate is compiled, as on a GPU, so no length of rows costs a build."""
    model = load_directory(openelm, "plain").model
    model.set_compiled(compiled)
    adapter = AdapterArrays(model, AdapterShape(rank=2, dora=True))

    def loss(arrays: Arrays, batch: Batch) -> mx.array:
        adapter.put(arrays)
        return summed_loss(model, batch.ids, batch.counts)

    arrays, batch = adapter.begin(mx.random.key(0)), rows_of(9)
    learned = mx.value_and_grad(loss)(arrays, batch)
    assert "Compiled" not in operations(learned[0], *learned[1].values())
    assert ("Compiled" in operations(loss(arrays, batch))) == compiled


def test_rows_of_any_length_are_validated_with_one_compiled_gate(openelm: Path) -> None:
    traced: list[tuple[int, ...]] = []

    def counted(gate: mx.array, up: mx.array, fused: bool) -> mx.array:
        traced.append(gate.shape)
        return silu_gate(gate, up, fused)

    model = load_directory(openelm, "plain").model
    model.gate.plain = counted
    model.set_compiled(True)
    for length in range(5, 30, 4):
        batch = rows_of(length)
        summed_loss(model, batch.ids, batch.counts)
    assert len(traced) == 1


def rows_of(length: int) -> Batch:
    """A batch of one row of so many ids."""
    return batch_of([Example(tuple(checkpoints.prompt(length)), (True,) * (length - 1))])


def operations(*arrays: mx.array) -> str:
    """The operations that would compute arrays, as a graph in the language DOT."""
    written = io.StringIO()
    mx.export_to_dot(written, *arrays)
    return written.getvalue()
