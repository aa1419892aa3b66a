"""Layers that several ranks share compute what one machine computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints
from helpers.logits import logits_of, whole
from helpers.ranks import Thread, in_ranks, share

from elm_mlx.store.load import read_config

WIDE = checkpoints.LLAMA | {"num_key_value_heads": 6, "num_attention_heads": 12, "num_hidden_layers": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "untied": WIDE,
    "tied": WIDE | {"tie_word_embeddings": True, "rope_scaling": checkpoints.llama3_scaling(8.0)},
    "odd vocabulary": WIDE | {"vocab_size": 517},
    "twice": WIDE | {"model_type": "mobilellm", "layer_sharing": True, "share_embedding": True},
    "one feed-forward": WIDE | {"model_type": "mobillama"},
}


@pytest.mark.parametrize(("name", "ranks"), [*((name, 2) for name in SHAPES), ("tied", 1), ("odd vocabulary", 3)])
def test_logits_are_those_of_one_machine_and_the_same_bytes_on_every_rank(
    name: str, ranks: int, tmp_path: Path
) -> None:
    raw = SHAPES[name] | {"intermediate_size": 96 * 3}
    config = read_config(checkpoints.write(tmp_path, raw, tokenizer=False))

    def one(group: Thread) -> list[np.ndarray]:
        model = share(tmp_path, config, "tensor", group)
        return logits_of(model, model.config.num_layers)

    theirs = in_ranks(ranks, one)
    for expected, *found in zip(whole(tmp_path, config), *theirs, strict=True):
        assert all(np.array_equal(found[0], other) for other in found)
        np.testing.assert_allclose(found[0], expected, atol=1e-4, rtol=0)
