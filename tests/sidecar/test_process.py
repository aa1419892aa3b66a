"""The process: it ends with its client, however that ends, and its standard output has nothing but the protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CODE = "import sys; from elm_mlx.sidecar import run; sys.exit(run())"
NOISY = """
import os, sys
from elm_mlx.sidecar import models, run
def names():
    print("a print"); os.system("echo a child"); os.write(1, b"a write"); sys.stdin.read()
    return []
import elm_mlx.sidecar.methods as methods
methods.names_here = names
sys.exit(run())
"""
HUNG = """
import sys, time
from elm_mlx.sidecar import methods, process
process.MOST_S = 0.2
methods.names_here = lambda: time.sleep(60)
sys.exit(process.run())
"""
# A parent that starts the sidecar, has it answer without end, prints the pid and waits to be killed.
PARENT = f"""
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CODE!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(**message): child.stdin.write(json.dumps({{"jsonrpc": "2.0", **message}}).encode() + b"\\n")
send(id=1, method="initialize", params={{"protocolVersion": 1}})
send(id=2, method="generate", params={{"prompt": "Once", "options": {{"banned_ids": [2], "window": 64}}}})
child.stdin.flush()
while b"generate/delta" not in child.stdout.readline(): pass
print(child.pid, flush=True)
time.sleep(600)
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes, and ends those that a test leaves."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(code: str = CODE, **others: Any) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, **others))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def send(process: subprocess.Popen[bytes], **message: Any) -> None:
    assert process.stdin
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def read(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout
    return json.loads(process.stdout.readline())


def introduced(process: subprocess.Popen[bytes], **params: Any) -> subprocess.Popen[bytes]:
    send(process, id=0, method="initialize", params={"protocolVersion": 1, **params})
    assert read(process)["id"] == 0
    return process


def is_gone(pid: int, within_s: float = 30.0) -> bool:
    """Whether a process that is not our child ends in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        state = Path(f"/proc/{pid}/stat")
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # it has ended, and nobody has looked at it
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_it_ends_where_its_parent_is_killed_in_the_middle_of_an_answer(start: Start) -> None:
    parent = start(PARENT)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    assert is_gone(pid)


def test_it_ends_where_standard_input_ends(start: Start) -> None:
    process = introduced(start())
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_it_ends_where_work_in_a_thread_does_not(start: Start) -> None:
    process = introduced(start(HUNG))
    send(process, id=1, method="model/list")
    send(process, id=2, method="shutdown")
    assert process.wait(20) == 0


def test_a_shutdown_is_answered_and_ends_it(start: Start) -> None:
    process = introduced(start())
    send(process, id=1, method="shutdown")
    assert read(process) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert process.wait(30) == 0


def test_it_ends_after_sigterm_and_where_nobody_reads(start: Start) -> None:
    terminated, unread = introduced(start()), introduced(start())
    terminated.send_signal(signal.SIGTERM)
    assert unread.stdout
    unread.stdout.close()
    send(unread, id=1, method="memory/status")
    assert terminated.wait(30) == 143
    assert unread.wait(30) == 141
    unread.stdout = None  # for `communicate`


def test_it_ends_with_the_process_that_it_is_told_of(start: Start) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = introduced(start(), processId=parent.pid)
    parent.communicate()
    assert process.wait(30) == 0


def test_standard_output_is_for_the_protocol_alone(start: Start) -> None:
    process = introduced(start(NOISY))
    send(process, id=1, method="model/list")
    assert read(process)["result"] == {"loaded": [], "here": []}
    out, err = process.communicate(timeout=30)
    assert out == b""
    assert {b"a print", b"a child", b"a write"} <= set(err.splitlines())
