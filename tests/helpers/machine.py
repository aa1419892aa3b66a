"""A home, a hub and the program: what the tests of names and downloads play with."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from helpers import command_line
from helpers.command_line import PATIENCE_S, Result, ended
from helpers.fake_hub import FakeHub, living_in

from elm_mlx.library import names as registry

APPLE, READY, GATED = "apple/OpenELM-450M", "mlx-community/Llama-3.2-1B-Instruct-4bit", "meta-llama/Llama-3.2-1B"
MIRRORS = ("someone/llama-tokenizer", "another/llama-tokenizer")
# The registry is data: the tests put their own tokenizer and mirrors there. No socket but to the fake hub.
PROGRAM = """
import json, os, socket, sys
import elm_mlx.library.names as registry
registry.TOKENIZER_SHA256, registry.TOKENIZER_MIRRORS = os.environ["SHA256"], json.loads(os.environ["MIRRORS"])
if os.environ.get("NO_SOCKETS"):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")
    socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from elm_mlx.cli import main
main()
"""


def listing(folder: Path) -> dict[str, bytes | Path]:
    return {file.name: file for file in folder.iterdir()}


class Machine:
    """A home, a hub and a program, which runs in the tests' process, or in one of its own where that is the point."""

    def __init__(self, home: Path, hub: FakeHub, tokenizer: bytes) -> None:
        self.home, self.hub = home, hub
        known = {"SHA256": hashlib.sha256(tokenizer).hexdigest(), "MIRRORS": json.dumps(MIRRORS)}
        self.environment = (
            hub.environment(home) | known | {"ELM_MLX_CACHE": str(home / "elm"), "ELM_MLX_BLAS": "reference"}
        )

    @contextmanager
    def here(self, **environment: str) -> Iterator[None]:
        """Makes the tests' process one of this machine until the block ends: what PROGRAM does to a new process."""
        whole = self.environment | environment
        with living_in(whole), pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "TOKENIZER_SHA256", whole["SHA256"])
            patch.setattr(registry, "TOKENIZER_MIRRORS", json.loads(whole["MIRRORS"]))
            if "NO_SOCKETS" in whole:
                patch.setattr(socket.socket, "connect", refuse)
                patch.setattr(socket, "create_connection", refuse)
                patch.setattr(socket, "getaddrinfo", refuse)
            yield

    def run(self, *arguments: object, cwd: Path | None = None, **environment: str) -> Result:
        """Runs a command line in the tests' process."""
        with self.here(**environment), chdir(cwd or Path.cwd()):
            return command_line.run(*arguments)

    def generate(self, model: str, *more: object, **environment: str) -> Result:
        """A few words of a model, in the tests' process."""
        return self.run("generate", "--model", model, "--prompt", "Once", "--max-tokens", 4, *more, **environment)

    def start(self, *arguments: object, program: str = PROGRAM, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a command line, or another program, in a process of its own."""
        command = [sys.executable, "-c", program]
        return command_line.start(*arguments, program=command, env=self.environment | environment)

    def process(self, *arguments: object, program: str = PROGRAM, **environment: str) -> Result:
        """Runs a command line, or another program, to its end in a process of its own."""
        return ended(self.start(*arguments, program=program, **environment))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def until(condition: Callable[[], object]) -> None:
    """Waits for what another process or thread brings about."""
    given_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < given_up, "what was waited for did not come"
        time.sleep(0.01)


def well(done: Result) -> Result:
    assert done.code == 0, done.err
    return done


def pulled(done: Result) -> Path:
    """The directory that `elm-mlx pull` prints."""
    return Path(well(done).out.strip())


def sent(hub: FakeHub) -> dict[str, int]:
    """The files whose bytes were sent, and how many of them."""
    files: dict[str, int] = {}
    for request in hub.requests:
        if request.method == "GET" and request.status in (200, 206) and re.search("/(resolve|cdn)/", request.path):
            name = request.path.partition("?")[0].rpartition("/")[2]
            files[name] = files.get(name, 0) + request.sent
    return files
