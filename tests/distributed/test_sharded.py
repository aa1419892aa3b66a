"""Layers that several ranks share compute what one machine computes."""

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
WIDE = checkpoints.LLAMA | {"num_key_value_heads": 6, "num_attention_heads": 12, "num_hidden_layers": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "untied": WIDE,
    "tied": WIDE | {"tie_word_embeddings": True, "rope_scaling": checkpoints.llama3_scaling(8.0)},
    "odd vocabulary": WIDE | {"vocab_size": 517},
    "twice": WIDE | {"model_type": "mobilellm", "layer_sharing": True, "share_embedding": True},
    "one feed-forward": WIDE | {"model_type": "mobillama"},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("ranks", [1, 2, 3])
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


DIVIDING = WIDE | {"head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 256,
                   "hidden_size": 128}  # fmt: skip


@pytest.mark.parametrize("policies", ["auto", pytest.param("plain,compiled", marks=pytest.mark.slow)])
def test_two_processes_draw_the_ids_of_one_in_float32_and_4_bits(policies: str, tmp_path: Path) -> None:
    plain = checkpoints.write(tmp_path / "plain", DIVIDING)
    few = quantized.write(tmp_path / "few", DIVIDING, {"bits": 4, "group_size": 64}, tokenizer=True)
    first, second = run_ranks(2, PROGRAM, tmp_path, "tensor", policies, str(plain), str(few))
    for told, other in zip(first, second, strict=True):
        ids, logits = answer(load_directory(Path(told["directory"]), "plain"), None)
        assert told["ids"] == other["ids"] == ids
        assert told["logits"] == other["logits"], "the same bytes"
        # two for each of two layers, one for the embedding, one that agrees on the drawn id; one for the logits
        assert told["collectives"] == other["collectives"] == {"Sum AllReduce": 2 * 2 + 2, "AllGather": 1}
        np.testing.assert_allclose(told["logits"], logits, atol=1e-4, rtol=0)
