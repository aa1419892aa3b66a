"""Processes that MLX's ring joins draw the ids of one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import checkpoints, quantized, rank_answers
from helpers.rank_answers import answer
from helpers.rank_processes import run_ranks

from elm_mlx.store.load import load_directory, read_config
from elm_mlx.store.parts import rank_bytes

PROGRAM = Path(rank_answers.__file__)
LLAMA = checkpoints.LLAMA | {"num_attention_heads": 12, "num_key_value_heads": 6, "head_dim": 32, "hidden_size": 128,
                             "intermediate_size": 384, "num_hidden_layers": 3}  # fmt: skip
LAYERS = LLAMA["num_hidden_layers"]
# In a step: two sums for each layer, one for the embedding and one that agrees on the drawn id; logits are gathered.
# What is sent and received is handed over before the graph is drawn.
COLLECTIVES = {"tensor": {"Sum AllReduce": 2 * LAYERS + 2, "AllGather": 1}, "pipeline": {"Sum AllReduce": 1}}


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "policies"), [
    (2, "auto"), (2, "plain,compiled"), (3, "auto"),
])  # fmt: skip
def test_processes_draw_the_ids_of_one_in_float32_and_4_bits(ranks: int, policies: str, tmp_path: Path) -> None:
    llama = str(checkpoints.write(tmp_path / "llama", LLAMA))
    openelm = str(checkpoints.write(tmp_path / "openelm", checkpoints.OPENELM))
    few = str(quantized.write(tmp_path / "few", LLAMA, {"bits": 4, "group_size": 32}, tokenizer=True))
    pairs = ["tensor", llama, "tensor", few, "pipeline", openelm, "pipeline", few]
    alone = {folder: answer(load_directory(Path(folder), "plain"), None) for folder in (llama, openelm, few)}
    for first, *others in zip(*run_ranks(ranks, PROGRAM, tmp_path, policies, *pairs), strict=True):
        ids, logits = alone[first["directory"]]
        assert all(one["ids"] == ids for one in (first, *others))
        np.testing.assert_allclose(first["logits"], logits, atol=1e-4, rtol=0)
        assert all(one["collectives"] == COLLECTIVES[first["kind"]] for one in (first, *others))
        if first["kind"] == "tensor":
            assert all(one["logits"] == first["logits"] for one in others), "the same bytes"
        if (first["kind"], first["directory"]) == ("tensor", llama):
            whole = sum(rank_bytes(Path(llama), read_config(Path(llama)), "tensor", 1))
            assert max(one["bytes"] for one in (first, *others)) <= {2: 0.55, 3: 0.4}[ranks] * whole
