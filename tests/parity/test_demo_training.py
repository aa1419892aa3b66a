"""The demo's recipe in torch: its OpenELM gives the oracle's logits, a run that was stopped and continued ends with the
weights of one that was not, and a student says what its teacher says."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
RECIPE = Path(__file__).parents[2] / "examples" / "demo_model"
sys.path[:0] = [str(Path(__file__).parent), str(RECIPE)]

import corpus
import openelm
import openelm_torch
import recipe
import train

import elm_mlx
from elm_mlx.convert import convert

pytestmark = pytest.mark.parity

TINY = recipe.FAMILY | {"model_dim": 64, "num_transformer_layers": 3, "vocab_size": 64, "ffn_dim_divisor": 32}
OPTIONS = train.Options(tokens=3000, batch_tokens=200, held_out=8, measure_every=5)


@pytest.fixture(scope="module")
def text() -> corpus.Corpus:
    """A corpus that is quickly learnt: each story counts upwards from some id."""
    random = np.random.RandomState(0)
    rows = [(np.arange(random.randint(10, 30)) + random.randint(60)) % 60 + 3 for _ in range(200)]
    whole = [np.array([1, *row, 2], np.uint16) for row in rows]
    return corpus.Corpus(np.concatenate(whole), np.cumsum([0, *map(len, whole)]))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", recipe.MODELS)
def test_the_recipe_s_model_is_the_oracle_s(name: str) -> None:
    config = recipe.MODELS[name]
    torch.manual_seed(0)
    ours, oracle = openelm.OpenELM(config), openelm_torch.OpenELM(config)
    oracle.load_state_dict(ours.state_dict())
    ids = torch.randint(3, 2048, (2, 40))
    with torch.no_grad():
        expected = oracle(ids)
        assert (ours(ids) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", recipe.MODELS)
def test_the_trained_checkpoint_gives_torch_s_logits_here(name: str, tmp_path: Path) -> None:
    config: dict[str, Any] = json.loads((RECIPE / name / "config.json").read_text(encoding="utf-8"))
    oracle = openelm_torch.OpenELM(config)
    saved = torch.load(RECIPE / name / "pytorch_model.bin", weights_only=True)
    oracle.load_state_dict({key: value.float() for key, value in saved.items()})
    lm = elm_mlx.load(convert(RECIPE / name, tmp_path / name, dtype="float32").output)
    ids = lm.tokenizer.encode("Once upon a time there was a shy fox named Pip. She lived in a den near the red barn.")
    with torch.no_grad():
        expected = oracle(torch.tensor([ids]))[0].numpy()
    assert np.abs(np.array(lm.logits(ids)) - expected).max() < 2e-5 * np.abs(expected).max()


def test_a_stopped_run_goes_on_to_the_same_weights(
    text: corpus.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train.train(TINY, text, OPTIONS, tmp_path / "whole")
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
    step = train.Run.step

    def interrupted(run: train.Run, batch: corpus.Batch) -> float:
        if run.state.step == 7:
            raise KeyboardInterrupt
        return step(run, batch)

    monkeypatch.setattr(train.Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, text, OPTIONS, tmp_path / "parts")
    monkeypatch.setattr(train.Run, "step", step)
    resumed = train.train(TINY, text, OPTIONS, tmp_path / "parts")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name
    curves = [(tmp_path / part / "curve.json").read_text(encoding="utf-8") for part in ("whole", "parts")]
    assert curves[0] == curves[1]


def test_training_learns(text: corpus.Corpus, tmp_path: Path) -> None:
    train.train(TINY, text, OPTIONS, tmp_path)
    curve = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert curve[-1]["held_out"] < 0.7 * curve[0]["held_out"]


class CountsByTwo(torch.nn.Module):  # type: ignore[misc]
    """Finds the id after the next one likeliest, which the text never has."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 3 * torch.nn.functional.one_hot((ids + 2) % 64, 64).float()


def test_a_student_learns_what_its_teacher_says_and_not_the_text(text: corpus.Corpus, tmp_path: Path) -> None:
    teacher = train.Teacher(CountsByTwo())
    student = train.train(TINY, text, replace(OPTIONS, tokens=6000), tmp_path, teacher)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert (student(ids).argmax(-1) == (ids + 2) % 64).float().mean() > 0.9


def test_a_run_goes_on_with_the_same_teacher_alone(text: corpus.Corpus, tmp_path: Path) -> None:
    torch.manual_seed(2)
    teacher = train.Teacher(openelm.OpenELM(TINY))
    train.train(TINY, text, OPTIONS, tmp_path, teacher)
    torch.manual_seed(1)
    other = openelm.OpenELM(TINY)
    for given, goes_on in ((teacher, True), (train.Teacher(other), False), (train.Teacher(teacher.model, 1.0), False)):
        run = train.Run(TINY, text, OPTIONS, tmp_path, given)
        run.load()
        assert (run.state.tokens > 0) is goes_on
    without = train.Run(TINY, text, OPTIONS, tmp_path)
    without.load()
    assert without.state.tokens == 0


def test_batches_hold_each_story_once_and_little_padding(text: corpus.Corpus) -> None:
    groups = corpus.epoch_groups(text, 200, seed=0, epoch=0)
    assert sorted(i for group in groups for i in group) == list(range(len(text)))
    sizes = [ids.numel() for ids, _ in (corpus.batch(text, group) for group in groups)]
    assert max(sizes) <= 200
    assert sum(sizes) < 1.1 * (len(text.ids) - len(text))
