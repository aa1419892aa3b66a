"""Blocks that are dealt to several ranks compute what one machine computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints
from helpers.logits import logits_of, whole
from helpers.ranks import Thread, in_ranks, share

from elm_mlx.store.load import read_config

LLAMA = checkpoints.LLAMA
SHAPES: dict[str, dict[str, Any]] = {
    "openelm": checkpoints.OPENELM,
    "openelm untied": checkpoints.CONFIGS["openelm-untied"],
    "llama": checkpoints.CONFIGS["llama-3.1"],
    "twice": LLAMA | {"model_type": "mobilellm", "layer_sharing": True, "share_embedding": True},
    "one feed-forward": LLAMA | {"model_type": "mobillama"},
    "bitnet": LLAMA | {"model_type": "bitnet", "hidden_act": "relu2"},
}


@pytest.mark.parametrize(("name", "ranks"), [*((name, 2) for name in SHAPES), ("llama", 1), ("openelm", 4)])
def test_logits_are_those_of_one_machine(name: str, ranks: int, tmp_path: Path) -> None:
    config = read_config(checkpoints.write(tmp_path, SHAPES[name], tokenizer=False))

    def one(group: Thread) -> list[np.ndarray]:
        model = share(tmp_path, config, "pipeline", group)
        found = logits_of(model, model.config.num_layers)
        assert group.done == ({"send": len(found), "receive": len(found)} if ranks > 1 else {})
        return found

    first, *others = in_ranks(ranks, one)
    for expected, found in zip(whole(tmp_path, config), first, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert not any(found.any() for other in others for found in other), "zeros"
