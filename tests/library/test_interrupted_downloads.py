"""Cut, killed, interrupted, or twice at once: a pull goes on where it stopped, and leaves nothing behind."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pexpect
import pytest
from helpers.command_line import PATIENCE_S, ended
from helpers.fake_hub import FakeHub
from helpers.machine import APPLE, PROGRAM, Machine, pulled, sent, until, well


@pytest.mark.usefixtures("at_once")
def test_a_cut_within_a_process_is_not_noticed(machine: Machine, hub: FakeHub) -> None:
    hub.cut("model.safetensors", after=1000, times=2)
    well(machine.generate("openelm-450m"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("after", [1, 50_000, 65_537])
def test_what_came_before_a_cut_is_not_fetched_twice(machine: Machine, hub: FakeHub, apple: Path, after: int) -> None:
    size = (apple / "model.safetensors").stat().st_size
    hub.cut("model.safetensors", after=after, times=min(20, size // after))
    well(machine.run("pull", "openelm-450m"))
    assert sent(hub)["model.safetensors"] == size
    assert len([request for request in hub.requests if request.status == 206]) == min(20, size // after)


@pytest.mark.usefixtures("at_once")
def test_a_busy_hub_is_asked_again(machine: Machine, hub: FakeHub) -> None:
    hub.fail("model.safetensors", status=503, times=2)
    well(machine.generate("openelm-450m"))


def test_a_killed_download_goes_on_in_another_process(machine: Machine, hub: FakeHub, apple: Path) -> None:
    size = (apple / "model.safetensors").stat().st_size
    held = hub.hold("model.safetensors", after=size // 2)
    process = machine.start("pull", "openelm-450m")
    assert held.wait(PATIENCE_S)
    until(lambda: any(file.stat().st_size > size / 4 for file in machine.home.rglob("*.partial")))
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    hub.mend()
    hub.reset()
    well(machine.generate("openelm-450m"))
    assert 0 < sent(hub)["model.safetensors"] < 0.8 * size
    assert not [*machine.home.rglob("*.partial")]


def test_a_download_shows_its_bytes_on_a_terminal_and_ctrl_c_ends_it_tidily(machine: Machine, hub: FakeHub) -> None:
    hub.hold("model.safetensors", after=200_000)
    eager = "import elm_mlx.cli.progress as p; p.PATIENCE_S = -1\n" + PROGRAM
    terminal = {"TERM": "xterm", "COLUMNS": "100"}
    child = pexpect.spawn(
        sys.executable, ["-c", eager, "pull", "openelm-450m"], env=machine.environment | terminal, timeout=PATIENCE_S
    )
    child.expect(rb"Fetching.*\d/\d+\.\d [kM]B")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert b"\x1b[?25h" in child.before, child.before  # the cursor is back
    assert b"Traceback" not in child.before
    hub.mend()
    well(machine.generate("openelm-450m"))


def test_what_a_killed_conversion_left_is_gone_on_with_or_removed(machine: Machine) -> None:
    script = (
        "import os, elm_mlx.convert.output.pipeline as p\n"
        "right, seen = p.write_weight, []\n"
        "def stop(*given):\n"
        "    seen.append(1)\n"
        "    len(seen) > 3 and os.kill(os.getpid(), 9)\n"
        "    return right(*given)\n"
        "p.write_weight = stop\n"
    )

    def killed() -> list[Path]:
        done = machine.process("pull", "openelm-450m", program=script + PROGRAM)
        assert done.code == -signal.SIGKILL, done.err
        return [*(machine.home / "elm").rglob(".*.partial")]

    assert killed()
    well(machine.run("rm", "openelm-450m", "--yes"))
    assert not [*(machine.home / "elm").rglob(".*")]
    assert machine.run("rm", "openelm-450m", "--yes").code == 66
    assert killed()
    well(machine.generate("openelm-450m"))
    assert not [*(machine.home / "elm").rglob(".*")]


@pytest.mark.slow
def test_two_pulls_at_once_both_end_well(machine: Machine, hub: FakeHub) -> None:
    hub.hold("model.safetensors", after=1000)
    both = [machine.start("pull", "openelm-450m", "--bits", 4) for _ in range(2)]
    until(lambda: sum(f"{APPLE}/revision" in request.path for request in hub.requests) >= 2)
    hub.mend()
    first, second = [pulled(ended(process)) for process in both]
    assert first == second
