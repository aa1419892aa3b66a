"""Starts a command on every rank, and ends all ranks when one ends.

Rank 0 is a child of this process with its terminal, so it reads and writes as the command alone would. The ranks judge
one another when they meet (`distributed.meeting`): versions, model and memory, before any weight is read.
"""

from __future__ import annotations

import json
import math
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from elm_mlx.distributed.host_file import JACCL_RING, LOOPBACK, RING, Host, Hosts
from elm_mlx.distributed.hosts import CONTROL, JOB
from elm_mlx.distributed.rank_files import WHO
from elm_mlx.distributed.rank_process import SSH_FAILED, Orders, RankProcess, Seat, python_for
from elm_mlx.errors import InvalidRequest
from elm_mlx.shell import command_line

STARTING_PORT = 32_323  # MLX's own
CARRIED = ("ELM_MLX_", "MLX_")  # how variables begin that other machines get, too
# What belongs to one machine, to rank 0 alone, or to an earlier run.
LEFT = {"ELM_MLX_API_KEY", "ELM_MLX_CACHE", *WHO}
GRACE_S = 10.0  # in which rank 0 is to notice that another rank ended
DRAIN_S = 25.0  # in which rank 0 is to end after SIGTERM: a server lets requests end first
LEAVE_S = 1.0  # in which the other ranks are to notice that rank 0 ended
LAST_S = 8.0  # in which a rank is to end whose lifeline is closed
CODES = {signal.SIGTERM: 143, signal.SIGHUP: 129}
MOST_LINES = 1000  # that are remembered
NOT_FOUND = (126, 127)  # a shell's codes for a program that it cannot start
Event = RankProcess | int  # a rank that ended, or a signal


@dataclass(frozen=True)
class Job:
    """A command for all ranks: its words after `elm-mlx`, the machines, the backend, Python's path on them, and the
    first of the ports that ranks listen at (None: free ones, where all are on this machine)."""

    words: Sequence[str]
    hosts: Hosts
    backend: str = RING
    python: str | None = None
    port: int | None = None


def launch(job: Job, say: Callable[[str], None]) -> int:
    """Runs a command on every rank; returns the exit code of rank 0, or that of the rank that failed. `say` gets what
    ranks above 0 print, and sentences. Raises InvalidRequest where rank 0 is not this machine."""
    return Launcher(say).run(seats_of(job), orders_of(job))


# Who a rank is


def seats_of(job: Job) -> list[Seat]:
    """Where each rank runs. Raises InvalidRequest where the first host is another machine: rank 0 keeps the terminal,
    and listens for the others."""
    python = python_for(job.python)
    seats = [Seat(rank, host.ssh, is_here(host), python) for rank, host in enumerate(job.hosts.hosts)]
    if not seats[0].is_here:
        raise InvalidRequest(f"The first host is {seats[0].host}, and this is another machine.",
                             "Give the command there, or put this machine first.")  # fmt: skip
    return seats


def is_here(host: Host) -> bool:
    """Whether a host is this machine: by its name, or as one of its addresses can be listened at here."""
    if host.ssh.rpartition("@")[2] in (LOOPBACK, "localhost", socket.gethostname()):
        return True
    return any(is_own(ip) for ip in host.ips)


def is_own(ip: str) -> bool:
    """Whether an address is one of this machine's."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((ip, 0))
        return True
    return False


def orders_of(job: Job) -> list[Orders]:
    """What each rank is told, by MLX's variables and ours."""
    hosts = job.hosts.hosts
    needed = sum(len(host.ips) for host in hosts) if job.backend == RING else 1
    ports = ports_of(job, needed + 1)
    shared = {name: value for name, value in os.environ.items() if name.startswith(CARRIED) and name not in LEFT}
    shared |= dict(job.hosts.envs)
    shared |= {CONTROL: f"{hosts[0].ips[0]}:{ports.pop()}", JOB: secrets.token_hex(16)}
    if job.backend == RING:
        free = iter(ports)
        files = {"MLX_HOSTFILE": json.dumps([[f"{ip}:{next(free)}" for ip in host.ips] for host in hosts])}
    else:
        files = {"MLX_IBV_DEVICES": json.dumps([host.rdma for host in hosts])}
        shared["MLX_JACCL_COORDINATOR"] = f"{hosts[0].ips[0]}:{ports[0]}"
        if job.backend == JACCL_RING:
            shared["MLX_JACCL_RING"] = "1"
    folder = str(Path.cwd())
    return [Orders(list(job.words), shared | {"MLX_RANK": str(rank)}, files, folder) for rank in range(len(hosts))]


def ports_of(job: Job, count: int) -> list[int]:
    """So many ports: the asked ones, MLX's, or, where all ranks are on this machine, free ones."""
    if job.port is None and all(host.ips == (LOOPBACK,) for host in job.hosts.hosts):
        return free_ports(count)
    first = STARTING_PORT if job.port is None else job.port
    if first + count > 2**16:
        raise InvalidRequest(f"Ports from {first} on are too few for {count}.", "Give a lower {starting_port}.")
    return list(range(first, first + count))


def free_ports(count: int) -> list[int]:
    """Ports at which nobody listens on this machine now."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]


# Running


class Launcher:
    """The ranks of one command, from their start to their end. `say` gets their lines, and sentences."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ranks: list[RankProcess] = []
        self._code, self._until = 0, math.inf  # where rank 0 still runs then, it is ended with this code
        self._lines: dict[str, Seat] = {}  # what was shown of ranks above 0

    def run(self, seats: Sequence[Seat], orders: Sequence[Orders]) -> int:
        """Starts the ranks, waits for the end of one, and ends the others; returns the exit code."""
        with signals_to(self._events.put):
            try:
                for seat, told in zip(seats, orders, strict=True):
                    self._ranks.append(RankProcess(seat, told, self._events.put, self._show))
                return self._watch()
            finally:
                self._end()

    def _show(self, seat: Seat, line: str) -> None:
        """Shows what a rank above 0 prints, once where several say the same. Called in threads."""
        if len(self._lines) > MOST_LINES or self._lines.setdefault(line, seat) is seat:
            self._say(f"{seat}: {line}")

    def _watch(self) -> int:
        """Waits until rank 0 has ended, or until it has to be; returns the exit code of the command."""
        while event := self._next():
            if event is self._ranks[0]:
                return self._ranks[0].code or 0
            if isinstance(event, RankProcess):
                self._miss(event)
            elif event == signal.SIGINT:
                if not came_from_terminal():
                    self._ranks[0].signal(signal.SIGINT)
            else:
                self._stop(CODES[signal.Signals(event)])
        return self._code

    def _next(self) -> Event | None:
        """What happens next; None when the time is over."""
        left = None if math.isinf(self._until) else max(0.0, self._until - time.monotonic())
        with suppress(queue.Empty):
            return self._events.get(timeout=left)
        return None

    def _miss(self, rank: RankProcess) -> None:
        """A rank above 0 has ended. If it failed, rank 0 will soon know, and say so."""
        if rank.code and math.isinf(self._until):
            never_came = rank.code in (SSH_FAILED, *NOT_FOUND)  # of that rank 0 would hear nothing for long
            self._code, self._until = rank.code, time.monotonic() + (0 if never_came else GRACE_S)
            self._explain(rank)

    def _stop(self, code: int) -> None:
        """Asks rank 0 to end, which a server does when requests have ended; asked again, it is ended at once."""
        is_again, self._code = self._code == code, code
        self._until = time.monotonic() + (0 if is_again else DRAIN_S)
        self._ranks[0].signal(signal.SIGTERM)

    def _explain(self, rank: RankProcess) -> None:
        """Says why a rank ended, where it cannot say so itself."""
        host, code = rank.seat.host, rank.code or 0
        if not rank.seat.is_here and code == SSH_FAILED:
            check = command_line("ssh", "-o", "BatchMode=yes", host, "true")
            self._say(f"{named(rank)} did not start, or its connection broke. Check that `{check}` works here.")
        elif code in NOT_FOUND:
            self._say(f"{named(rank)}: {rank.seat.python} is not there. --python names the Python of all machines.")
        elif code > 128:
            self._say(f"{named(rank)} was ended by signal {code - 128} ({signal_name(code - 128)}).")

    def _end(self) -> None:
        """Ends all ranks that still run. Nothing is left when this returns, but what hangs on another machine."""
        if self._ranks and self._ranks[0].code == 0:
            self._wait(LEAVE_S)  # they hear from rank 0 that it has done its work
        for rank in self._ranks:
            rank.let_go()
        self._wait(LAST_S)
        for rank in self._ranks:
            if rank.code is None:
                rank.kill()
        self._wait(LEAVE_S)

    def _wait(self, seconds: float) -> None:
        """Waits for all ranks, at most so long."""
        until = time.monotonic() + seconds
        for rank in self._ranks:
            rank.wait(max(0.0, until - time.monotonic()))


def named(rank: RankProcess) -> str:
    """A rank as a sentence begins with it."""
    return f"R{str(rank.seat)[1:]}"


def signal_name(number: int) -> str:
    """A signal's name, if it has one here."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return "unknown"


def came_from_terminal() -> bool:
    """Whether Ctrl-C at the terminal sends its signal to rank 0, too, which is in this process's group: then it has it
    already."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextmanager
def signals_to(put: Callable[[int], None]) -> Iterator[None]:
    """Has signals that end a process put instead of ending it. One that is ignored stays so (nohup)."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *CODES):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, lambda number, _: put(number))
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
