"""A home, a hub and the program as a process: what the tests of names and downloads play with."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.fake_hub import FakeHub

APPLE, READY, GATED = "apple/OpenELM-450M", "mlx-community/Llama-3.2-1B-Instruct-4bit", "meta-llama/Llama-3.2-1B"
MIRRORS = ("someone/llama-tokenizer", "another/llama-tokenizer")
# The registry is data: the tests put their own tokenizer and mirrors there. No socket but to the fake hub.
PROGRAM = """
import json, os, signal, socket, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in its background
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
    """A home, a hub and a program."""

    def __init__(self, home: Path, hub: FakeHub, tokenizer: bytes) -> None:
        self.home, self.hub = home, hub
        known = {"SHA256": hashlib.sha256(tokenizer).hexdigest(), "MIRRORS": json.dumps(MIRRORS)}
        self.environment = (
            hub.environment(home) | known | {"ELM_MLX_CACHE": str(home / "elm"), "ELM_MLX_BLAS": "reference"}
        )

    def start(self, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.environment | environment, cwd=cwd, text=True, **pipes)

    def run(self, *arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, cwd=cwd, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def generate(self, model: str, *more: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("generate", "--model", model, "--prompt", "Once", "--max-tokens", 4, *more, **environment)


def well(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def sent(hub: FakeHub) -> dict[str, int]:
    """The files whose bytes were sent, and how many of them."""
    files: dict[str, int] = {}
    for request in hub.requests:
        if request.method == "GET" and request.status in (200, 206) and re.search("/(resolve|cdn)/", request.path):
            name = request.path.partition("?")[0].rpartition("/")[2]
            files[name] = files.get(name, 0) + request.sent
    return files
