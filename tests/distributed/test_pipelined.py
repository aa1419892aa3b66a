"""Blocks that are dealt to several ranks compute what one machine computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints, quantized, rank_answers
from helpers.logits import logits_of, whole
from helpers.rank_answers import answer
from helpers.rank_processes import run_ranks
from helpers.ranks import Thread, in_ranks, share

from elm_mlx.store.load import load_directory, read_config

PROGRAM = Path(rank_answers.__file__)
LLAMA = checkpoints.LLAMA
SHAPES: dict[str, dict[str, Any]] = {
    "openelm": checkpoints.OPENELM,
    "openelm untied": checkpoints.CONFIGS["openelm-untied"],
    "llama": checkpoints.CONFIGS["llama-3.1"],
    "twice": LLAMA | {"model_type": "mobilellm", "layer_sharing": True, "share_embedding": True},
    "one feed-forward": LLAMA | {"model_type": "mobillama"},
    "bitnet": LLAMA | {"model_type": "bitnet", "hidden_act": "relu2"},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_logits_are_those_of_one_machine(name: str, ranks: int, tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, SHAPES[name], tokenizer=False))

    def one(group: Thread) -> list[np.ndarray]:
        model = share(tmp_path, config, "pipeline", group)
        return logits_of(model, model.config.num_layers)

    first, *others = in_ranks(ranks, one)
    for expected, found in zip(whole(tmp_path, config), first, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert not any(found.any() for other in others for found in other), "zeros"


@pytest.mark.parametrize(("ranks", "policies"), [
    (2, "auto"), pytest.param(3, "auto,plain,compiled", marks=pytest.mark.slow),
])  # fmt: skip
def test_processes_draw_the_ids_of_one_in_float32_and_4_bits(ranks: int, policies: str, tmp_path: Path) -> None:
    plain = checkpoints.write(tmp_path / "plain", checkpoints.OPENELM)
    few = quantized.write(tmp_path / "few", LLAMA, {"bits": 4, "group_size": 32}, tokenizer=True)
    for told in zip(*run_ranks(ranks, PROGRAM, tmp_path, "pipeline", policies, str(plain), str(few)), strict=True):
        ids, logits = answer(load_directory(Path(told[0]["directory"]), "plain"), None)
        assert all(one["ids"] == ids for one in told)
        np.testing.assert_allclose(told[0]["logits"], logits, atol=1e-4, rtol=0)
