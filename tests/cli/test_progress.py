"""The progress bar: nothing for quick work, nothing off a terminal, and gone when the work is."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pexpect
import pytest
from helpers.command_line import PATIENCE_S
from rich.console import Console

from elm_mlx.cli import progress
from elm_mlx.cli.messages import bar_consoles, tell
from elm_mlx.cli.progress import ProgressBar

# The program with no patience, so that every bar shows that may.
EAGER = "import elm_mlx.cli.progress as p; p.PATIENCE_S = -1; from elm_mlx.cli import main; main()"
PROGRAM = [sys.executable, "-c", EAGER, "generate", "--max-tokens", "1"]
HIDE_CURSOR, SHOW_CURSOR, WIPE_LINE = "\x1b[?25l", "\x1b[?25h", "\x1b[2K"


class Stream(io.StringIO):
    """A stderr that is a terminal, or is not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setenv("TERM", "xterm")
    return clock


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_shows_after_a_second_and_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(is_terminal))
    with ProgressBar("Reading", in_bytes=False) as bar:
        for clock.now in (0.0, 0.5, 1.0):
            bar(int(10 * clock.now), 40)
        assert stream.getvalue() == ""
        clock.now = 1.1
        bar(20, 40)
        assert bool(bar.bar) == is_terminal  # off a terminal rich is not even imported
    assert ("Reading" in stream.getvalue(), "20/40" in stream.getvalue()) == (is_terminal, is_terminal)
    assert stream.getvalue().endswith(WIPE_LINE if is_terminal else "")


def test_bytes_are_shown_as_such(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(True))
    with ProgressBar("Loading", in_bytes=True) as bar:
        clock.now = 2
        bar(1_500_000, 3_000_000)
    assert "1.5/3.0 MB" in stream.getvalue()


def test_what_is_said_meanwhile_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Stream(True))
    with ProgressBar("Fetching", in_bytes=True) as bar:
        clock.now = 2
        bar(1, 2)
        tell("waiting [for] a\x1bfriend")
        bar(2, 2)  # which takes it away
        tell("next")
    shown = stream.getvalue()
    assert f"{WIPE_LINE}waiting [for] a\ufffdfriend\n" in shown
    assert f"{WIPE_LINE}next\n" in shown


def test_an_interrupt_leaves_no_bar_behind(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def interrupted() -> None:
        with ProgressBar("Loading", in_bytes=True) as bar:
            clock.now = 2
            bar(1, 2)
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stderr", stream := Stream(True))
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown = stream.getvalue()
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) == 1
    assert shown.endswith(WIPE_LINE)


@pytest.mark.parametrize("step", ["set_live", "show_cursor", "push_render_hook", "clear_live", "pop_render_hook"])
def test_ctrl_c_amid_a_step_of_a_bar_comes_after_it(monkeypatch: pytest.MonkeyPatch, clock: Clock, step: str) -> None:
    right = getattr(Console, step)

    def interrupted(*given: object) -> object:
        monkeypatch.setattr(Console, step, right)  # once
        signal.raise_signal(signal.SIGINT)
        return right(*given)

    def work() -> None:
        with ProgressBar("Loading", in_bytes=True) as bar:
            clock.now = 2
            bar(1, 2)

    monkeypatch.setattr(sys, "stderr", stream := Stream(True))
    monkeypatch.setattr(Console, step, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests behind it
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    shown = stream.getvalue()
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) == 1
    assert shown.endswith(WIPE_LINE)
    assert not bar_consoles


def on_terminal(*command: str, **environment: str) -> bytes:
    """What a program shows on a terminal that is all three of its streams."""
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | environment
    child = pexpect.spawn(command[0], list(command[1:]), env=env, timeout=PATIENCE_S)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    return bytes(child.before)


@pytest.fixture(scope="module")
def shown() -> bytes:
    """What the program shows on a terminal as it comes."""
    return on_terminal(*PROGRAM)


def test_the_program_draws_bars_on_a_terminal_and_never_into_a_file(shown: bytes, tmp_path: Path) -> None:
    assert b"Loading" in shown
    assert HIDE_CURSOR.encode() in shown
    file = tmp_path / "stderr"
    silent = on_terminal("/bin/sh", "-c", 'exec "$@" 2>"$0"', str(file), *PROGRAM)
    assert b"built-in demo" in file.read_bytes()
    assert b"\x1b[" not in silent + file.read_bytes()


def colours(shown: bytes) -> list[bytes]:
    """The codes among what was shown that begin with a colour; others are bold, dim and the like."""
    return [code for code in re.findall(rb"\x1b\[[0-9;]*m", shown) if re.match(rb"\x1b\[(3|4|9|10)\d", code)]


@pytest.mark.slow
def test_no_color_and_quiet_are_kept_to_on_a_terminal(shown: bytes) -> None:
    plain = on_terminal(*PROGRAM, NO_COLOR="1")
    assert b"Loading" in plain
    assert not colours(plain)
    assert colours(shown)
    assert b"\x1b[" not in on_terminal(*PROGRAM, "--quiet")
