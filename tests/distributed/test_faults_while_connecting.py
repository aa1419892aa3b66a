"""A rank that ends, fails or stops while MLX connects the ranks is named, although the others' own processes wait."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.rank_faults import SCRIPT
from helpers.rank_runs import ranks

from elm_mlx.distributed.guard import what_happened

CONNECTING = {
    "killed": ("has ended, and with it all ranks.", -9),
    "raises": ("failed: MLX could not connect the ranks: no network", 87),
}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", CONNECTING)
def test_a_rank_that_fails_while_mlx_connects_them_is_told_by_all(
    endless: Path, tmp_path: Path, how: str, rank: int
) -> None:
    words, code = CONNECTING[how]
    with ranks(tmp_path, SCRIPT, endless, "connecting", rank, how, count=3) as run:
        ended = run.ended()
    assert ended[rank].code == code
    for one in [one for place, one in enumerate(ended) if place != rank]:
        assert one.code in (87, -9)  # their own process can do nothing, so it was killed
        assert one.error == f"Error: Rank {rank} (127.0.0.1) {words}\n"


@pytest.mark.slow
def test_a_rank_that_stops_while_mlx_connects_them_ends_the_others_in_time(endless: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, endless, "connecting", 1, "stopped", ELM_MLX_JOIN_SECONDS="6") as run:
        _, error = run.children[0].communicate(timeout=40)
        run.send(1, signal.SIGCONT)
        run.children[1].communicate(timeout=20)
    assert "MLX did not connect the ranks within 6 seconds" in error
    assert [child.returncode for child in run.children.values()] in ([-9, 87], [-9, -9])


GUARDED = """
import sys, time
from elm_mlx.distributed.guard import guarding
with guarding({int(sys.argv[1]): "Rank 0"}, False, 0.5):
    time.sleep(60)
"""


def test_a_guard_whose_time_is_over_first_tells_rank_0_why_its_process_ends() -> None:
    here, there = socket.socketpair()
    with here, there:
        child = subprocess.run(
            [sys.executable, "-c", GUARDED, str(there.fileno())], pass_fds=[there.fileno()], capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip
        sentence = what_happened({here.fileno(): "Rank 1"})
    assert child.returncode == -signal.SIGKILL
    assert sentence is not None
    assert sentence.startswith("Rank 1 failed: MLX did not connect the ranks within 0.5 seconds")
    assert child.stderr == f"Error: {sentence.removeprefix('Rank 1 failed: ')}\n"
