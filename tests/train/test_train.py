"""A training from end to end: what it writes, that it goes on exactly, and what it refuses before it loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers.command_line import run

from elm_mlx.errors import BadCheckpoint, InvalidRequest, NotEnoughMemory, NotFound, TargetExists, Unsupported
from elm_mlx.train import run as running
from elm_mlx.train import train
from elm_mlx.train.job import Step

TEXTS = ["Once there was a fox.", "A hen sat on a wall.", "The frog sang.", "It was cold, and so the bear slept.",
         "Mia ran home."]  # fmt: skip
SHORT: dict[str, Any] = {"batch_size": 2, "steps": 4, "save_every": 2, "evaluate_every": 2, "layers": 1, "rank": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", TEXTS)
    return folder


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_stopped_training_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    """Optimizer, step, schedule and order of the rows are those of a training that was not stopped."""
    write(data / "valid.jsonl", TEXTS[:2])
    asked = SHORT | {"schedule": "cosine", "warmup": 1, "steps": 5}

    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    train(data, tmp_path / "whole", **asked)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", report=stop, **asked)
    with (tmp_path / "stopped" / "losses.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # as a kill leaves it
    train(data, tmp_path / "stopped", resume=True, **asked)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_training_that_was_stopped_before_its_first_checkpoint_begins_anew(data: Path, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    train(data, tmp_path / "whole", **SHORT | {"steps": 2})
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", report=stop, **SHORT | {"steps": 2})
    heard: list[str] = []
    train(data, tmp_path / "stopped", resume=True, notify=heard.append, **SHORT | {"steps": 2})
    assert "no checkpoint yet" in " ".join(heard)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_output_is_mlx_lms_layout_and_names_its_base(data: Path, tmp_path: Path) -> None:
    done = train(data, tmp_path / "out", kind="dora", targets=("out_proj",), **SHORT)
    facts = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert facts["fine_tune_type"] == "dora"
    assert facts["num_layers"] == 1
    assert facts["lora_parameters"] == {"rank": 2, "scale": 20.0, "dropout": 0.0, "keys": ["attn.out_proj"]}
    tensors, metadata = mx.load(str(tmp_path / "out" / "adapters.safetensors"), return_metadata=True)
    assert {name.rsplit(".", 1)[1] for name in tensors} == {"lora_a", "lora_b", "m"}
    assert all(name.startswith("transformer.layers.6.attn.out_proj.") for name in tensors)
    assert metadata["base"] == "demo"
    assert len(metadata["base_weights"]) == 64
    assert done.parameters == sum(array.size for array in tensors.values())


def test_every_row_is_learned_once_an_epoch(data: Path, tmp_path: Path) -> None:
    """Also those beyond a multiple of the batch, and fewer than a batch."""
    train(data, tmp_path / "out", **SHORT | {"steps": None, "epochs": 1})
    targets = learned(tmp_path / "out")
    train(data, tmp_path / "large", **SHORT | {"steps": None, "epochs": 1, "batch_size": 8})
    assert len(targets) == 3
    assert sum(targets) == sum(learned(tmp_path / "large"))


def learned(folder: Path) -> list[int]:
    lines = map(json.loads, (folder / "losses.jsonl").read_text().splitlines())
    return [line["targets"] for line in lines if "targets" in line]


def test_accumulating_is_a_mean_over_tokens(data: Path, tmp_path: Path) -> None:
    """Batches of one row that are learned together give the loss of one batch of all rows, however long each is."""
    one = train(data, tmp_path / "one", **SHORT | {"steps": 1, "batch_size": 8})
    many = train(data, tmp_path / "many", **SHORT | {"steps": 1, "batch_size": 1, "accumulate": 5})
    assert many.loss == pytest.approx(one.loss, rel=1e-5)


def test_patience_ends_a_training(data: Path, tmp_path: Path) -> None:
    write(data / "valid.jsonl", ["q z x " * 3])
    asked = SHORT | {"steps": 50, "evaluate_every": 1, "patience": 1, "learning_rate": 1.0, "schedule": "constant"}
    done = train(data, tmp_path / "out", **asked)
    assert done.ended == "patience"
    assert done.steps < 50


@pytest.mark.parametrize(
    ("asked", "error", "why"),
    [
        ({"layers": 16}, InvalidRequest, "layers is 16, and this model has 7"),
        ({"layers": 0}, InvalidRequest, "layers is 0"),
        ({"kind": "full"}, Unsupported, "kind full trains a model's floats, and this model is quantized"),
        ({"kind": "full", "rank": 4}, InvalidRequest, "rank belongs to adapters"),
        ({"beta": 0.2}, InvalidRequest, "beta belongs to the loss of pairs"),
        ({"kind": "ia3"}, InvalidRequest, "lora, dora"),
        ({"rank": 10**9}, InvalidRequest, "at most 4,096"),
        ({"scale": float("nan")}, InvalidRequest, "scale"),
        ({"steps": 2, "epochs": 2}, InvalidRequest, "given twice"),
        ({"wrong": 2}, InvalidRequest, "wrong"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], error: type, why: str
) -> None:
    monkeypatch.setattr(running, "load_model", lambda *_, **__: pytest.fail("It was loaded."))
    with pytest.raises(error, match=why):
        train(data, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_targets_that_no_matrix_has_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No matrix of this model ends in one of w9"):
        train(data, tmp_path / "out", targets=("w9",))


def test_a_training_without_room_is_refused_with_the_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elm_mlx.train.plan.memory_limit", lambda: 10**6)
    with pytest.raises(NotEnoughMemory, match=r"This training takes .* MB \(weights .* 1.0 MB") as caught:
        train(data, tmp_path / "out", **SHORT)
    assert caught.value.needed > caught.value.available == 10**6
    train(data, tmp_path / "out", force=True, **SHORT | {"steps": 1})


def test_an_output_that_is_there_stays(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "out", **SHORT | {"steps": 1})
    before = contents(tmp_path / "out")
    with pytest.raises(TargetExists, match="resume"):
        train(data, tmp_path / "out", **SHORT)
    assert contents(tmp_path / "out") == before


def test_only_the_same_training_goes_on(data: Path, tmp_path: Path) -> None:
    """A LoRA does not become a DoRA silently, nor does other data go unseen."""
    train(data, tmp_path / "out", **SHORT | {"steps": 1})
    with pytest.raises(InvalidRequest, match="kind"):
        train(data, tmp_path / "out", resume=True, kind="dora", **SHORT)
    write(data / "train.jsonl", TEXTS[1:])
    with pytest.raises(InvalidRequest, match="data"):
        train(data, tmp_path / "out", resume=True, **SHORT)


def test_a_damaged_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="to go on from"):
        train(data, tmp_path / "out", resume=True, **SHORT)
    train(data, tmp_path / "out", **SHORT | {"steps": 1})
    path = tmp_path / "out" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BadCheckpoint):
        train(data, tmp_path / "out", resume=True, **SHORT)


def test_the_command_trains_and_prints_lines_of_json(data: Path, tmp_path: Path) -> None:
    done = run("train", "--data", data, "--output", tmp_path / "out", "--steps", 2, "--layers", 1, "-b", 2, "--json")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line.get("step") for line in lines] == [1, 2, None]
    assert lines[0]["tokens_per_second"] > 0
    assert lines[2]["ended"] == "steps"
    assert "Memory: about" in done.err


def test_no_data_is_a_sentence(tmp_path: Path) -> None:
    done = run("train", "--data", tmp_path, "--output", tmp_path / "out")
    assert done.code == NotFound.exit_code
    assert "There is no train.jsonl" in done.err
