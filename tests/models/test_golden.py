"""Our models compute what PyTorch computed, and what mlx-lm's own models compute on the same weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from helpers import checkpoints, goldens

import elm_mlx


def test_logits_and_greedy_ids_equal_pytorch(source: Path, lm: elm_mlx.LanguageModel) -> None:
    goldens.check(lm.model, source.name)


@pytest.mark.slow
def test_logits_and_greedy_ids_equal_mlx_lm(source: Path, lm: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    from helpers.mlx_lm_alone import load_model, make_prompt_cache

    from elm_mlx.convert import convert

    convert(source, tmp_path / "out", dtype="float32")  # spells the config as mlx-lm reads it
    theirs, _ = load_model(tmp_path / "out")
    ids = checkpoints.prompt()
    expected = np.array(theirs(mx.array([ids]))[0])
    goldens.assert_close(lm.logits(ids), expected, 1e-4)
    cache = make_prompt_cache(theirs)
    token, drawn = mx.argmax(theirs(mx.array([ids]), cache=cache)[:, -1], axis=-1), []
    for _ in range(16):
        drawn.append(int(token.item()))
        token = mx.argmax(theirs(token[:, None], cache=cache)[:, -1], axis=-1)
    ours = [piece.token for piece in lm.stream(ids, max_tokens=16)]
    assert ours == drawn[: len(ours)]
    assert len(ours) == 16 or ours[-1] in lm.stop_ids
