"""States of layers that are computed twice give the same losses, and are not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.training import TEXTS, tiny, write_texts

from elm_mlx.config import config_from_dict
from elm_mlx.train import train
from elm_mlx.train.plan import Load, kept_floats

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


def test_the_plan_counts_one_layer_at_a_time(tmp_path: Path) -> None:
    raw = json.loads((tiny(tmp_path) / "config.json").read_text())
    config = config_from_dict(raw)
    assert kept_floats(config, Load(4, 100, recomputes=True)) < 0.6 * kept_floats(config, Load(4, 100))
