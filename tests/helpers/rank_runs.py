"""Processes that are ranks of one run on this machine, begun as MLX's launcher begins them."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 150  # on a busy machine
ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])

BEGIN = """
import json, os, signal, sys, threading, time
from pathlib import Path
import mlx.core as mx
mx.set_default_device(mx.cpu)
import elm_mlx
from elm_mlx.distributed import facts, following, hello, leader, meeting, watch
from elm_mlx.distributed.follower import follow
from elm_mlx.distributed.hosts import hosts_here
from elm_mlx.errors import ElmError, RankFailed

def say(*words):
    print(*words, flush=True)

def run(main, model, kind=None, **options):
    try:
        hosts = hosts_here()
        found = lambda: facts.facts_of(Path(model), kind, hosts)
        ranks = meeting.join(kind, found, {"options": repr(options)}, hosts)
        say("joined")
        if hosts.rank:
            return follow(model, ranks, **options)
        with elm_mlx.load(model, ranks=ranks, **options) as lm:
            main(lm, ranks)
    except ElmError as error:
        if not getattr(error, "is_told", False):
            watch.write_error(str(error))
        sys.exit(error.exit_code)

"""


class Ended(NamedTuple):
    """How a rank's process ended, and what it said."""

    code: int
    out: str
    error: str


class Run:
    """The processes of a run by rank."""

    def __init__(self, children: dict[int, subprocess.Popen[str]], control: tuple[str, int]) -> None:
        self.children, self.control = children, control

    def heard(self, rank: int, word: str) -> str:
        """Waits until a rank's process says a line that begins with a word, and returns the line."""
        out = self.children[rank].stdout
        assert out
        for line in out:
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"rank {rank} never said {word!r}: {self.children[rank].communicate()}")

    def send(self, rank: int, number: signal.Signals) -> None:
        """Sends a signal to a rank's process."""
        self.children[rank].send_signal(number)

    def ended(self) -> list[Ended]:
        """Waits for the ends of all processes."""
        until = time.monotonic() + PATIENCE_S
        found = []
        for rank in sorted(self.children):
            out, error = self.children[rank].communicate(timeout=max(1.0, until - time.monotonic()))
            error = "".join(line for line in error.splitlines(True) if not line.startswith("[ring]"))  # MLX's own
            found.append(Ended(self.children[rank].returncode, out, error))
        return found


@contextmanager
def ranks(
    folder: Path, script: str, *words: object, count: int = 2, only: tuple[int, ...] | None = None, **variables: str
) -> Iterator[Run]:
    """Begins a script, after BEGIN, as so many ranks (`only` some of them) with `words` as its arguments. At the end
    none is left."""
    port = free_ports(count + 1)
    file = folder / f"hosts-{port}.json"
    file.write_text(json.dumps([[f"127.0.0.1:{port + rank}"] for rank in range(count)]), encoding="utf-8")
    children = {
        rank: begin(script, words, {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(file), **variables})
        for rank in (range(count) if only is None else only)
    }
    try:
        yield Run(children, ("127.0.0.1", port + count))
    finally:
        for child in children.values():
            with suppress(OSError):
                child.kill()
            child.communicate()


def begin(script: str, words: tuple[object, ...], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    """Begins one process."""
    command = [sys.executable, "-c", BEGIN + script, *map(str, words)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **variables},
    )  # fmt: skip


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody listens at, below those that systems give away."""
    for _ in range(100):
        first = random.SystemRandom().randrange(20_000, 32_000)
        if all(is_free(first + place) for place in range(count)):
            return first
    raise AssertionError("there are no free ports")


def is_free(port: int) -> bool:
    """Whether nobody listens at a port of this machine."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
