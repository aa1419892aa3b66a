"""Ranks that wait take no time, and end with the program of rank 0, however it ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.rank_faults import SCRIPT
from helpers.rank_runs import ranks

BY_ITSELF = """
def main(lm, ranks):
    lm.generate("Hi", 3)
    LAST
run(main, sys.argv[1])
"""
LAST = {
    "raises": "raise KeyError('mine')",
    "exits": "sys.exit(5)",
    "is interrupted": "os.kill(os.getpid(), signal.SIGINT)",
}


@pytest.mark.slow
@pytest.mark.parametrize("last", LAST)
def test_a_program_of_rank_0_that_ends_itself_ends_the_others_in_order(
    endless: Path, tmp_path: Path, last: str
) -> None:
    with ranks(tmp_path, BY_ITSELF.replace("LAST", LAST[last]), endless) as run:
        first, second = run.ended()
    assert first.code == {"raises": 1, "exits": 5, "is interrupted": -2}[last]
    assert (second.code, second.error) == (0, "")  # the model was closed on the way


@pytest.mark.slow
def test_ten_runs_one_after_the_other_leave_nobody_behind(endless: Path, tmp_path: Path) -> None:
    for _ in range(10):
        with ranks(tmp_path, BY_ITSELF.replace("LAST", ""), endless) as run:
            for one in run.ended():
                assert (one.code, one.error) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells a process's time there")
def test_idle_ranks_use_no_processor_time(endless: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, endless, "idle", "") as run:
        run.heard(0, "ready")
        time.sleep(1)
        before = [spent(child.pid) for child in run.children.values()]
        time.sleep(5)
        after = [spent(child.pid) for child in run.children.values()]
    assert all(later - earlier <= 10 for earlier, later in zip(before, after, strict=True)), (before, after)


def spent(pid: int) -> int:
    """The processor time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
