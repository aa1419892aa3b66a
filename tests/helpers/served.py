"""`elm-mlx serve` in a process of its own, for tests that need a real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import command_line, wire

PATIENCE_S = command_line.PATIENCE_S
# A completion of the demo that does not end by itself: where it ends, it was cancelled.
ENDLESS = {"prompt": "Once upon a time", "max_tokens": 10**6, "window": 64, "logit_bias": {"2": -100}}


@dataclass
class Served:
    """A server that is ready: what its ready line says, its process, the file that it logs to, and the headers that all
    requests of `ask` have."""

    ready: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: Path
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        port: int = self.ready["port"]
        return port

    @property
    def url(self) -> str:
        """The base that clients of OpenAI's API want."""
        return f"http://127.0.0.1:{self.port}/v1"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> wire.Answer:
        """One well-formed request."""
        return wire.ask(self.port, method, path, body, self.headers | (headers or {}))

    def metric(self, name: str) -> float:
        """A figure of /metrics, summed over its labels."""
        text = self.ask("GET", "/metrics").body.decode()
        found = re.findall(rf"^elm_mlx_{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"/metrics has no elm_mlx_{name}:\n{text}"
        return sum(map(float, found))

    @property
    def busy(self) -> float:
        """How many requests run or wait."""
        return self.metric("num_requests_running") + self.metric("num_requests_waiting")

    def resident_bytes(self) -> int:
        """How much memory the process has (Linux and macOS)."""
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, check=True)
        return 1024 * int(shown.stdout)


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for what another process brings about."""
    given_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < given_up, f"this did not come: {what}"
        time.sleep(0.02)


def start(*options: object, environment: dict[str, str] | None = None, log: Path) -> Served:
    """Starts `elm-mlx serve` on a free port, or on the address in the options, and waits until it is ready."""
    where = () if {"--uds", "--port"} & set(options) else ("--port", 0)
    arguments = ["serve", "--json", *where, *options]
    with log.open("wb") as errors:
        process = command_line.start(*arguments, stderr=errors, env=os.environ | (environment or {}))
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        process.wait(PATIENCE_S)
        raise AssertionError(f"the server ended before it was ready: {log.read_text()}")
    return Served(json.loads(line), process, log)


@contextmanager
def serving(*options: object, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """A server that ends with the block; then it must have said nothing of an error that it did not expect."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        served = start(*options, environment=environment, log=log)
        try:
            yield served
            said = log.read_text(encoding="utf-8", errors="replace")
            assert "Traceback" not in said, said
        finally:
            stop(served)


def stop(served: Served) -> None:
    """Ends a server: kindly, or else by force."""
    served.process.send_signal(signal.SIGTERM)
    try:
        served.process.wait(10)
    except subprocess.TimeoutExpired:
        print(f"the server did not end by itself:\n{served.log.read_text()}", file=sys.stderr)
        served.process.kill()
    served.process.communicate()
