"""The processes that `server.py` measures: our server, mlx-lm's, and the clients of both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ELM = (sys.executable, "-m", "elm_mlx")
# mlx-lm's server with the BLAS that ours has, and without torch, which it does not need and which brings threads.
PEER = "import sys, elm_mlx; sys.modules['torch'] = None; {blas}; from mlx_lm.server import main; main()"
PATIENCE_S = 120
TICKS = os.sysconf("SC_CLK_TCK")


class Server(NamedTuple):
    """A server that answers: its port and its process."""

    port: int
    pid: int


@contextmanager
def ended_after(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Ends a process with the block."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def our_server(*options: object) -> Iterator[Server]:
    """`elm-mlx serve` with these options, once it says that it is ready."""
    command = [*ELM, "serve", "--port", "0", "--json", *map(str, options)]
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, text=True)
    with ended_after(started) as process:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            sys.exit(f"This ended before it was ready: {command}")
        yield Server(json.loads(line)["port"], process.pid)


@contextmanager
def peer_server(directory: Path) -> Iterator[Server]:
    """`mlx_lm.server` with this model, once its port is open. It loads the model with the first request."""
    import elm_mlx

    port = free_port()
    program = PEER.format(blas="elm_mlx.use_fast_blas()" if elm_mlx.fast_blas() else "pass")
    command = [sys.executable, "-c", program, "--model", str(directory), "--port", str(port), "--log-level", "ERROR"]
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, text=True)
    with ended_after(started) as process:
        wait_for(port, process)
        yield Server(port, process.pid)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    """Waits until a process listens on a port."""
    given_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > given_up:
                sys.exit(f"{process.args!r} does not answer.")
            time.sleep(0.05)
        else:
            return


class Clients:
    """The process of `server_load.py`."""

    def __init__(self) -> None:
        script, pipe = Path(__file__).with_name("server_load.py"), subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, str(script)], stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, port: int, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sends all bodies at the same moment to /v1/completions, and returns the times of each answer."""
        assert self._process.stdin
        assert self._process.stdout
        request = {"port": port, "path": "/v1/completions", "bodies": bodies}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answers: list[dict[str, Any]] = json.loads(self._process.stdout.readline() or sys.exit("The clients failed."))
        return answers


def processor_seconds(pid: int) -> float:
    """What a process has taken of the processor, in steps of the system's clock, which are 0.01 s on Linux."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS
    spent = subprocess.run(["ps", "-o", "cputime=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    return float(sum(60**place * float(part) for place, part in enumerate(reversed(spent.strip().split(":")))))
