"""Whatever fails on one of several ranks ends all of them: with one sentence that names it, a code, and no orphan."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from helpers.rank_faults import SCRIPT, alike
from helpers.rank_runs import ranks

KILLED = {1: (87, -9, 87), 0: (-9, 87, 87)}


@pytest.mark.slow
@pytest.mark.parametrize("rank", KILLED)
@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_rank_that_is_killed_ends_all(endless: Path, tmp_path: Path, when: str, rank: int) -> None:
    with ranks(tmp_path, SCRIPT, endless, when, "", count=3) as run:
        run.heard(0, "ready")
        run.send(rank, signal.SIGKILL)
        ended = run.ended()
    alike(ended, f"Rank {rank} (127.0.0.1) has ended, and with it all ranks.", KILLED[rank])


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_ends_the_others_and_itself_when_it_goes_on(
    endless: Path, tmp_path: Path, rank: int
) -> None:
    with ranks(tmp_path, SCRIPT, endless, "busy", "", count=3) as run:
        run.heard(0, "ready")
        run.send(rank, signal.SIGSTOP)
        others = {other: child for other, child in run.children.items() if other != rank}
        errors = [child.communicate(timeout=40)[1] for child in others.values()]
        assert [child.returncode for child in others.values()] == [87, 87]
        words = f"Error: Rank {rank} (127.0.0.1) has given no sign of life for 10 seconds"
        assert all(words in error for error in errors), errors
        run.send(rank, signal.SIGCONT)
        run.children[rank].communicate(timeout=20)
        assert run.children[rank].returncode == 87


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_that_raises_on_one_rank_is_told_by_all(endless: Path, tmp_path: Path, rank: int) -> None:
    with ranks(tmp_path, SCRIPT, endless, "raises", rank, count=3) as run:
        ended = run.ended()
    alike(ended, f"Rank {rank} (127.0.0.1) failed: ValueError('the step broke')", (87, 87, 87))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "words"), [(0, "did not end step"), (1, "did not come to step")])
def test_a_step_that_hangs_on_one_rank_is_told_by_all(endless: Path, tmp_path: Path, rank: int, words: str) -> None:
    with ranks(tmp_path, SCRIPT, endless, "hangs", rank, count=3, ELM_MLX_STEP_SECONDS="2") as run:
        ended = run.ended()
    alike(ended, f"Rank {rank} (127.0.0.1) {words}", (87, 87, 87))


@pytest.mark.slow
def test_a_rank_whose_state_differs_is_told_by_all_with_the_difference(endless: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, endless, "forgets", 1) as run:
        ended = run.ended()
    alike(ended, "Rank 1 (127.0.0.1) failed: it is out of step with rank 0: the caches reserved: [", (87, 87))


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("seed", range(8))
def test_a_rank_that_is_killed_at_any_moment_ends_the_others_in_time(
    endless: Path, tmp_path: Path, number: signal.Signals, seed: int
) -> None:
    """From the first line of the program on: while ranks meet, while MLX connects them, while they load and answer."""
    rng = random.Random(seed)
    rank = rng.randrange(3)
    with ranks(tmp_path, SCRIPT, endless, "busy", "", count=3, ELM_MLX_JOIN_SECONDS="8") as run:
        time.sleep(rng.uniform(0.3, 4.0))
        run.send(rank, number)
        ended = run.ended()
    assert ended[rank].code == -number
    for one in [one for place, one in enumerate(ended) if place != rank]:
        assert one.code in (87, -9)
        assert f"Error: Rank {rank} (127.0.0.1) has ended" in one.error or "did not come" in one.error, ended
