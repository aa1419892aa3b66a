"""Whatever fails on one of several ranks ends all of them: with one sentence that names it, a code, and no orphan."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.rank_runs import Ended, ranks
from helpers.shallow import shallow

SCRIPT = """
def main(lm, ranks):
    if sys.argv[2] == "idle":
        say("ready")
        time.sleep(100)
    for count, _ in enumerate(lm.stream("Hi", 100_000)):
        if count == 5:
            say("ready")

def late(do):
    # What a rank does in a step of a long answer.
    from elm_mlx.engine.engine import Engine
    def decode(self, plan, real=Engine._decode):
        if len(self.running[0].ids) > 5:
            do(self)
        return real(self, plan)
    Engine._decode = decode

def raises(engine):
    raise ValueError("the step broke")

def other(**facts):
    from dataclasses import replace
    real = facts_module.facts_of
    facts_module.facts_of = lambda *given: replace(real(*given), **facts)

facts_module = facts
model = sys.argv[1]
if os.environ["MLX_RANK"] == sys.argv[3]:
    match sys.argv[2]:
        case "raises": late(raises)
        case "hangs": late(lambda engine: time.sleep(100))
        case "forgets": late(lambda engine: engine.prefixes.budget.reserve(engine.limits.token_bytes))
        case "elm-mlx": other(versions={**hello.versions_here(), "elm-mlx": "0.0.1"})
        case "mlx": other(versions={**hello.versions_here(), "mlx": "0.0.1"})
        case "memory": other(needs=10**15)
        case "model": model = sys.argv[4]
        case "no model": model = sys.argv[1] + "-that-is-not-there"
        case "connecting":
            def init(do=sys.argv[4], **named):
                if do == "raises":
                    raise RuntimeError("no network")
                os.kill(os.getpid(), signal.SIGKILL if do == "killed" else signal.SIGSTOP)
            mx.distributed.init = init
        case "loading":
            from elm_mlx.api import over_ranks
            over_ranks.usual_bytes = raises
run(main, model)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers take minutes."""
    config = shallow(checkpoints.OPENELM) | {"eos_token_id": None, "max_context_length": 10**6}
    return checkpoints.write(tmp_path_factory.mktemp("endless") / "model", config)


def alike(ended: list[Ended], sentence: str, codes: tuple[int, ...]) -> None:
    """Asserts that the processes ended with these codes, and those of 87 with this one sentence on stderr."""
    assert tuple(one.code for one in ended) == codes, ended
    for one in ended:
        if one.code == 87:
            assert one.error.startswith(f"Error: {sentence}"), one
            assert one.error.count("\n") == 1, one


KILLED = {1: (87, -9, 87), 0: (-9, 87, 87)}


@pytest.mark.slow
@pytest.mark.parametrize("rank", KILLED)
@pytest.mark.parametrize("when", ["idle", "busy"])
def test_a_rank_that_is_killed_ends_all(model: Path, tmp_path: Path, when: str, rank: int) -> None:
    with ranks(tmp_path, SCRIPT, model, when, "", count=3) as run:
        run.heard(0, "ready")
        begun = time.monotonic()
        run.send(rank, signal.SIGKILL)
        ended = run.ended()
    alike(ended, f"Rank {rank} (127.0.0.1) has ended, and with it all ranks.", KILLED[rank])
    assert time.monotonic() - begun < 10  # it takes 2 seconds at most


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_ends_the_others_and_itself_when_it_goes_on(
    model: Path, tmp_path: Path, rank: int
) -> None:
    with ranks(tmp_path, SCRIPT, model, "busy", "", count=3) as run:
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
def test_a_step_that_raises_on_one_rank_is_told_by_all(model: Path, tmp_path: Path, rank: int) -> None:
    with ranks(tmp_path, SCRIPT, model, "raises", rank, count=3) as run:
        ended = run.ended()
    alike(ended, f"Rank {rank} (127.0.0.1) failed: ValueError('the step broke')", (87, 87, 87))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "words"), [(0, "did not end step"), (1, "did not come to step")])
def test_a_step_that_hangs_on_one_rank_is_told_by_all(model: Path, tmp_path: Path, rank: int, words: str) -> None:
    with ranks(tmp_path, SCRIPT, model, "hangs", rank, count=3, ELM_MLX_STEP_SECONDS="2") as run:
        ended = run.ended()
    alike(ended, f"Rank {rank} (127.0.0.1) {words}", (87, 87, 87))


@pytest.mark.slow
def test_a_rank_whose_state_differs_is_told_by_all_with_the_difference(model: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, model, "forgets", 1) as run:
        ended = run.ended()
    alike(ended, "Rank 1 (127.0.0.1) failed: it is out of step with rank 0: the caches reserved: [", (87, 87))


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
def test_ranks_that_do_not_go_together_begin_nothing(model: Path, tmp_path: Path, what: str) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    raw = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(raw | {"rope_freq_constant": 9999}), encoding="utf-8")
    with ranks(tmp_path, SCRIPT, model, what, 1, other, count=3) as run:
        ended = run.ended()
    alike(ended, f"Rank 1 (127.0.0.1) {UNLIKE[what]}", (87, 87, 87))


CONNECTING = {
    "killed": ("has ended, and with it all ranks.", -9),
    "raises": ("failed: MLX could not connect the ranks: no network", 87),
}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", CONNECTING)
def test_a_rank_that_fails_while_mlx_connects_them_is_told_by_all(
    model: Path, tmp_path: Path, how: str, rank: int
) -> None:
    words, code = CONNECTING[how]
    with ranks(tmp_path, SCRIPT, model, "connecting", rank, how, count=3) as run:
        ended = run.ended()
    assert ended[rank].code == code
    for one in [one for place, one in enumerate(ended) if place != rank]:
        assert one.code in (87, -9)  # their own process can do nothing, so it was killed
        assert one.error == f"Error: Rank {rank} (127.0.0.1) {words}\n"


@pytest.mark.slow
def test_a_rank_that_stops_while_mlx_connects_them_ends_the_others_in_time(model: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, model, "connecting", 1, "stopped", ELM_MLX_JOIN_SECONDS="6") as run:
        _, error = run.children[0].communicate(timeout=40)
        run.send(1, signal.SIGCONT)
        run.children[1].communicate(timeout=20)
    assert "MLX did not connect the ranks within 6 seconds" in error
    assert [child.returncode for child in run.children.values()] in ([-9, 87], [-9, -9])


@pytest.mark.slow
@pytest.mark.parametrize("absent", [0, 2])
def test_a_rank_that_never_comes_is_told_in_time(model: Path, tmp_path: Path, absent: int) -> None:
    only = tuple(rank for rank in range(3) if rank != absent)
    with ranks(tmp_path, SCRIPT, model, "idle", "", count=3, only=only, ELM_MLX_JOIN_SECONDS="3") as run:
        ended = run.ended()
    alike(ended, f"Rank {absent} (127.0.0.1) did not come: ", (87, 87))


@pytest.mark.slow
def test_public_addresses_are_refused_by_each_rank(model: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, model, "idle", "", ELM_MLX_CONTROL="8.8.8.8:5000") as run:
        ended = run.ended()
    assert [one.code for one in ended] == [2, 2]
    assert all(one.error.startswith("Error: 8.8.8.8 is not a private address") for one in ended)


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
def test_a_program_of_rank_0_that_ends_itself_ends_the_others_in_order(model: Path, tmp_path: Path, last: str) -> None:
    with ranks(tmp_path, BY_ITSELF.replace("LAST", LAST[last]), model) as run:
        first, second = run.ended()
    assert first.code == {"raises": 1, "exits": 5, "is interrupted": -2}[last]
    assert (second.code, second.error) == (0, "")  # the model was closed on the way


@pytest.mark.slow
def test_ten_runs_one_after_the_other_leave_nobody_behind(model: Path, tmp_path: Path) -> None:
    for _ in range(10):
        with ranks(tmp_path, BY_ITSELF.replace("LAST", ""), model) as run:
            for one in run.ended():
                assert (one.code, one.error) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells a process's time there")
def test_idle_ranks_use_no_processor_time(model: Path, tmp_path: Path) -> None:
    with ranks(tmp_path, SCRIPT, model, "idle", "") as run:
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


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("seed", range(8))
def test_a_rank_that_is_killed_at_any_moment_ends_the_others_in_time(
    model: Path, tmp_path: Path, number: signal.Signals, seed: int
) -> None:
    """From the first line of the program on: while ranks meet, while MLX connects them, while they load and answer."""
    rng = random.Random(seed)
    rank = rng.randrange(3)
    with ranks(tmp_path, SCRIPT, model, "busy", "", count=3, ELM_MLX_JOIN_SECONDS="8") as run:
        time.sleep(rng.uniform(0.3, 4.0))
        run.send(rank, number)
        begun = time.monotonic()
        ended = run.ended()
    assert time.monotonic() - begun < 40  # 8 seconds where it had not come yet
    assert ended[rank].code == -number
    for one in [one for place, one in enumerate(ended) if place != rank]:
        assert one.code in (87, -9)
        assert f"Error: Rank {rank} (127.0.0.1) has ended" in one.error or "did not come" in one.error, ended
