"""The process of one rank, on this machine or by ssh on another one, and how it is told who it is.

A rank gets all of it as one line of JSON over a pipe, its lifeline: environment, arguments, files, folder. So nothing
of a command passes through a shell but Python's own path, and none of it is shown to other users of a machine. The
pipe stays open as long as the launcher lives: where it closes, the rank ends itself (`cli.rank`). It is the standard
input of all ranks but rank 0, which keeps the terminal.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO

MODULE = "elm_mlx.cli.rank"
MOST_LINE = 8192  # bytes of a rank's output that are printed as one line
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
       "-o", "ServerAliveCountMax=3")  # fmt: skip
SSH_FAILED = 255


@dataclass(frozen=True)
class Orders:
    """What a rank is told: the arguments of `elm-mlx`, variables of its environment, files whose paths it is to put
    into variables (variable -> content), and the folder to work in."""

    arguments: list[str]
    environment: dict[str, str]
    files: dict[str, str]
    folder: str

    def line(self) -> bytes:
        """The orders as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True)
class Seat:
    """Where a rank runs: its number, the name of its machine, whether that is this one, and Python's path there."""

    rank: int
    host: str
    is_here: bool
    python: str

    def __str__(self) -> str:
        return f"rank {self.rank}" if self.is_here else f"rank {self.rank} ({self.host})"


class RankProcess:
    """A rank that was started. `ended` is called in a thread with it when its process has ended; what a rank above 0
    prints goes to `show`, a line at a time, in another thread."""

    def __init__(
        self, seat: Seat, orders: Orders, ended: Callable[[RankProcess], None], show: Callable[[Seat, str], None]
    ) -> None:
        self.seat, self._show = seat, show
        started = start_first(seat) if seat.rank == 0 else start_other(seat)
        self.popen = started.popen
        self._lifeline: IO[bytes] | None = started.lifeline
        with suppress(OSError):  # where it has ended already, that is told in its own way
            started.lifeline.write(orders.line())
            started.lifeline.flush()
        self._threads = [threading.Thread(target=self._wait, args=(ended,), daemon=True)]
        if self.popen.stdout:
            self._threads.append(threading.Thread(target=self._print, args=(self.popen.stdout,), daemon=True))
        for thread in self._threads:
            thread.start()

    @property
    def code(self) -> int | None:
        """The exit code, as a shell tells it: 128 and its number where a signal ended it; None while it runs."""
        code = self.popen.returncode
        return 128 - code if code is not None and code < 0 else code

    def signal(self, number: int) -> None:
        """Sends a signal to a rank of this machine, if it still runs."""
        if self.code is None:
            self.popen.send_signal(number)

    def let_go(self) -> None:
        """Closes the lifeline: the rank ends itself, on whichever machine it is."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline:
            with suppress(OSError):
                lifeline.close()

    def wait(self, seconds: float) -> bool:
        """Waits until it has ended and its output is printed, at most so long; returns whether it has ended."""
        self._threads[0].join(seconds)
        for thread in self._threads[1:]:
            thread.join(1.0 if self.code is not None else 0.0)
        return self.code is not None

    def kill(self) -> None:
        """Ends the process at once; of a rank on another machine its ssh."""
        self.signal(signal.SIGKILL)

    def _wait(self, ended: Callable[[RankProcess], None]) -> None:
        self.popen.wait()
        ended(self)

    def _print(self, output: IO[bytes]) -> None:
        while line := output.readline(MOST_LINE):
            if text := line.decode(errors="replace").rstrip():
                self._show(self.seat, text)


@dataclass(frozen=True)
class Started:
    """A process and the pipe that is its lifeline."""

    popen: subprocess.Popen[bytes]
    lifeline: IO[bytes]


def start_first(seat: Seat) -> Started:
    """Starts rank 0: it has the launcher's own input, output and terminal, so that nothing is delayed or changed, and
    Ctrl-C reaches it, once `cli.rank` lets it: in its first moments Python would end with errors of its own."""
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # the process has it from its thread here
    try:
        popen = subprocess.Popen(words_of(seat, reading), pass_fds=(reading,))
    except BaseException:
        os.close(writing)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)
    return Started(popen, os.fdopen(writing, "wb"))


def start_other(seat: Seat) -> Started:
    """Starts a rank above 0, out of reach of the terminal's signals: rank 0 decides what Ctrl-C means."""
    words = words_of(seat, 0) if seat.is_here else [*SSH, seat.host, remote_line(words_of(seat, 0))]
    pipe = subprocess.PIPE
    popen = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True)
    assert popen.stdin
    return Started(popen, popen.stdin)


def words_of(seat: Seat, lifeline: int) -> list[str]:
    """The command of a rank that reads its orders from this file descriptor. -P: nothing is imported from the folder
    that Python happens to be started in."""
    return [seat.python, "-P", "-m", MODULE, str(lifeline)]


def remote_line(words: list[str]) -> str:
    """A command as the shell of another machine gets it, whichever shell that is: `sh` with one quoted script."""
    return f"exec /bin/sh -c {shlex.quote('exec ' + shlex.join(words))}"


def python_for(asked: str | None) -> str:
    """The Python that ranks run on: the asked one, or this one's path, which other machines are to have, too."""
    return asked or sys.executable
