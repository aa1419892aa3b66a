"""All floats of a model are trained, and what is written is a model like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers.checkpoints import CONFIGS
from helpers.command_line import run
from helpers.training import contents, tiny, write_texts

import elm_mlx
from elm_mlx.errors import NotEnoughMemory, TargetExists
from elm_mlx.train import run as running
from elm_mlx.train import train
from elm_mlx.train.job import Step

SHORT: dict[str, Any] = {"kind": "full", "batch_size": 2, "steps": 3, "save_every": 2, "learning_rate": 1e-2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_texts(tmp_path / "data" / "train.jsonl")
    return tmp_path / "data"


@pytest.mark.parametrize("family", ["openelm", "llama-3.2", pytest.param("llama-3", marks=pytest.mark.slow)])
def test_every_array_is_trained_and_the_model_that_is_written_runs(data: Path, tmp_path: Path, family: str) -> None:
    base = tiny(tmp_path / "base", family)
    done = train(data, tmp_path / "out", base, **SHORT)
    before, after = (mx.load(str(folder / "model.safetensors")) for folder in (base, tmp_path / "out"))
    assert before.keys() == after.keys()  # a tied embedding is there once
    assert done.parameters == sum(array.size for array in before.values())
    assert [name for name in before if mx.array_equal(before[name], after[name])] == []
    with elm_mlx.load(tmp_path / "out") as lm:
        assert lm.generate("Once there", max_tokens=2).text is not None


@pytest.mark.slow
def test_the_written_model_has_the_losses_that_were_told(data: Path, tmp_path: Path) -> None:
    """The best model is kept, and a training of it begins with the loss that the last one ended with."""
    write_texts(data / "valid.jsonl")
    done = train(data, tmp_path / "out", tiny(tmp_path / "base"), evaluate_every=1, **SHORT)
    train(data, tmp_path / "next", tmp_path / "out", **SHORT | {"steps": 1})
    first = json.loads((tmp_path / "next" / "losses.jsonl").read_text().splitlines()[0])
    assert first["valid_loss"] == pytest.approx(done.valid_loss, rel=1e-5)


def test_a_stopped_training_goes_on_to_the_same_bytes(data: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")

    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    asked = SHORT | {"steps": 4}
    train(data, tmp_path / "whole", base, **asked)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", base, report=stop, **asked)
    train(data, tmp_path / "stopped", base, resume=True, **asked)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_last_layers_alone_may_be_trained(data: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    train(data, tmp_path / "out", base, layers=1, **SHORT)
    before, after = (mx.load(str(folder / "model.safetensors")) for folder in (base, tmp_path / "out"))
    changed = {name for name in before if not mx.array_equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("transformer.layers.3.")}


def test_what_is_stored_in_few_digits_stays_in_its_type(data: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    half = {name: array.astype(mx.bfloat16) for name, array in mx.load(str(base / "model.safetensors")).items()}
    mx.save_safetensors(str(base / "model.safetensors"), half, {"format": "pt"})
    train(data, tmp_path / "out", base, **SHORT)
    assert {array.dtype for array in mx.load(str(tmp_path / "out" / "model.safetensors")).values()} == {mx.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_chat_template_that_was_given_goes_with_the_model(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "out", tiny(tmp_path / "base"), chat_template="zephyr", **SHORT | {"steps": 1})
    with elm_mlx.load(tmp_path / "out") as lm:
        assert lm.has_chat_template


def test_memory_is_refused_with_the_numbers_before_the_weights_are_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four numbers of four bytes for each that is trained: itself, its gradient, and two means."""
    base = tiny(tmp_path / "base")
    monkeypatch.setattr("elm_mlx.train.plan.memory_limit", lambda: 10**6)
    monkeypatch.setattr(running.Job, "begin", lambda *_: pytest.fail("It began."))
    with pytest.raises(NotEnoughMemory, match=r"what is trained .* MB") as caught:
        train(data, tmp_path / "out", base, **SHORT)
    count = sum(array.size for array in mx.load(str(base / "model.safetensors")).values())
    assert caught.value.needed > 16 * count
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_written_over_another_one(data: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    before = contents(base)
    with pytest.raises(TargetExists, match="already"):
        train(data, base, base, **SHORT)
    assert contents(base) == before


@pytest.mark.slow
def test_the_command_line_writes_a_model_that_generate_runs(data: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "base", "llama-3.1")
    out = tmp_path / "out"
    done = run("train", "--model", base, "--data", data, "-o", out, "--kind", "full", "--steps", 2, "--quiet")
    assert done.code == 0, done.err
    assert run("generate", "--model", out, "--prompt", "Once", "-n", 2).code == 0
    assert json.loads((out / "config.json").read_text())["rope_scaling"] == CONFIGS["llama-3.1"]["rope_scaling"]
