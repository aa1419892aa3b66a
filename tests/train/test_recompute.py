"""States of layers that are computed twice give the same losses, and are not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints, relatives
from helpers.training import TEXTS, tiny, write_texts

from elm_mlx.config import config_from_dict
from elm_mlx.device import choose_execution
from elm_mlx.store.load import load_model
from elm_mlx.train import train
from elm_mlx.train.full import FullArrays
from elm_mlx.train.loss import summed_loss
from elm_mlx.train.plan import Load, kept_floats
from elm_mlx.train.recompute import Recomputed
from elm_mlx.train.trainable import AdapterArrays, AdapterShape
from elm_mlx.train.trained import Trained

SHORT: dict[str, Any] = {"batch_size": 5, "steps": 3, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("full", "openelm"),
        ("dora", "llama-3.2"),
        *(pytest.param(*one, marks=pytest.mark.slow)
          for one in (("lora", "openelm"), ("dora", "openelm"), ("lora", "llama-3.2"), ("full", "llama-3.2"))),
    ],
)  # fmt: skip
def test_losses_are_those_of_states_that_were_kept(tmp_path: Path, kind: str, family: str) -> None:
    write_texts(tmp_path / "train.jsonl", TEXTS)
    base, found = tiny(tmp_path / "base", family), []
    for again in (False, True):
        train(tmp_path, tmp_path / str(again), base, kind=kind, checkpoint_gradients=again, **SHORT)
        lines = (tmp_path / str(again) / "losses.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines])
    assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize("raw", [relatives.MOBILELLM_LS, relatives.MOBILLAMA], ids=["mobilellm-ls", "mobillama"])
@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow), "full"])
def test_gradients_of_what_layers_share_are_whole(tmp_path: Path, kind: str, raw: dict[str, Any]) -> None:
    """Each layer that computes with an array adds to its gradient, also where its states are computed again."""
    directory = checkpoints.write(tmp_path, raw)
    config, found = config_from_dict(raw), []
    for again in (False, True):
        execution = choose_execution(config, "plain")
        model = load_model(directory, config, execution, None, True)
        one: Trained = FullArrays(directory, config, mx.float32) if kind == "full" else AdapterArrays(
            model, AdapterShape(rank=2, dora=kind == "dora"))  # fmt: skip
        trained = Recomputed(one) if again else one
        arrays = {name: array + 0.01 for name, array in trained.begin(mx.random.key(0)).items()}
        ids = mx.array([checkpoints.prompt(20)])
        counts = mx.ones((1, 19))
        found.append(mx.grad(lambda arrays: summed_loss(trained.with_arrays(arrays), ids, counts))(arrays))  # noqa: B023
    for name, gradient in found[0].items():
        assert mx.abs(gradient).max().item() > 0, name
        assert mx.allclose(found[1][name], gradient, rtol=1e-3, atol=1e-4 * mx.abs(gradient).max().item()), name


def test_the_plan_counts_one_layer_at_a_time(tmp_path: Path) -> None:
    raw = json.loads((tiny(tmp_path) / "config.json").read_text())
    config = config_from_dict(raw)
    assert kept_floats(config, Load(4, 100, recomputes=True)) < 0.6 * kept_floats(config, Load(4, 100))


def test_the_plan_counts_less_for_fewer_layers_and_more_for_dora(tmp_path: Path) -> None:
    """A refusal for lack of memory advises fewer layers."""
    config = config_from_dict(json.loads((tiny(tmp_path) / "config.json").read_text()))
    whole = kept_floats(config, Load(4, 100))
    assert kept_floats(config, Load(4, 100, blocks=1)) < 0.8 * whole
    assert kept_floats(config, Load(4, 100, blocks=config.num_blocks)) == whole
    assert kept_floats(config, Load(4, 100, dora=True)) > whole
