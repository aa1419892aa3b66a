"""A rank that does not go with the others, or never comes, is named by all of them before any has begun."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.rank_faults import SCRIPT, alike
from helpers.rank_runs import ranks

UNLIKE = {
    "elm-mlx": "has elm-mlx 0.0.1, and rank 0 has",
    "mlx": "has mlx 0.0.1, and rank 0 has",
    "memory": "has too little memory: its part of the model takes",
    "model": "has another model than rank 0",
    "no model": "cannot begin: There is no directory",
    "loading": "failed: ValueError('the step broke')",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", UNLIKE)
def test_ranks_that_do_not_go_together_begin_nothing(endless: Path, tmp_path: Path, what: str) -> None:
    other = shutil.copytree(endless, tmp_path / "other")
    raw = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(raw | {"rope_freq_constant": 9999}), encoding="utf-8")
    with ranks(tmp_path, SCRIPT, endless, what, 1, other, count=3) as run:
        ended = run.ended()
    alike(ended, f"Rank 1 (127.0.0.1) {UNLIKE[what]}", (87, 87, 87))


@pytest.mark.slow
@pytest.mark.parametrize("absent", [0, 2])
def test_a_rank_that_never_comes_is_told_in_time(endless: Path, tmp_path: Path, absent: int) -> None:
    only = tuple(rank for rank in range(3) if rank != absent)
    with ranks(tmp_path, SCRIPT, endless, "idle", "", count=3, only=only, ELM_MLX_JOIN_SECONDS="3") as run:
        ended = run.ended()
    alike(ended, f"Rank {absent} (127.0.0.1) did not come: ", (87, 87))


@pytest.mark.slow
def test_public_addresses_are_refused_by_each_rank(endless: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, endless, "idle", "", ELM_MLX_CONTROL="8.8.8.8:5000") as run:
        ended = run.ended()
    assert [one.code for one in ended] == [2, 2]
    assert all(one.error.startswith("Error: 8.8.8.8 is not a private address") for one in ended)
