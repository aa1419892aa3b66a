"""Ranks as processes of their own on this machine, joined by MLX's ring, as `mlx.launch` starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 150  # on a busy machine


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens at now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run_ranks(ranks: int, program: Path, folder: Path, *arguments: str) -> list[Any]:
    """Runs a Python program in so many processes, and gives what each of them writes, as JSON. Ends all of them."""
    hosts = folder / f"hosts-{ranks}.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(ranks)]), encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"rank-{rank}").open("w+")) for rank in range(2 * ranks)]
        started = [
            subprocess.Popen(
                [sys.executable, str(program), *arguments],
                env=os.environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts), "PYTHONPATH": path},
                stdout=files[rank], stderr=files[ranks + rank],
            )
            for rank in range(ranks)
        ]  # fmt: skip
        for one in started:
            stack.callback(one.wait)
            stack.callback(one.kill)
        codes = [one.wait(SECONDS) for one in started]
        texts = [(file.seek(0), file.read())[1] for file in files]
    assert not any(codes), "\n".join(texts[ranks:])
    return [json.loads(text) for text in texts[:ranks]]
