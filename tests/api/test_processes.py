"""Processes that are forked, interrupted, terminated or that end amid an answer: each ends, and says what it should."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.shallow import shallow

PATIENCE_S = 90  # on a busy machine; each takes about a second
BEGIN = """
import os, signal, sys, threading
import elm_mlx
lm = elm_mlx.load(sys.argv[1])
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers take minutes."""
    config = shallow(checkpoints.OPENELM) | {"eos_token_id": None, "max_context_length": 10**6}
    return checkpoints.write(tmp_path_factory.mktemp("endless") / "model", config)


def python(script: str, model: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end."""
    command = [sys.executable, "-c", BEGIN + script, str(model)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


IN_THE_CHILD = """
stream = lm.stream("Hi", 100_000)
next(stream)
uses = {
    "generate": lambda: lm.generate("Hi", 3),
    "next": lambda: next(stream),
    "result": lambda: stream.result(5),
    "logits": lambda: lm.logits([1, 2]),
    "batch": lambda: next(lm.batch(["Hi"], 3)),
    "load": lambda: elm_mlx.load(sys.argv[1]),
    "convert": lambda: elm_mlx.convert.convert(sys.argv[1], "/nowhere/at/all"),
    "close": lambda: lm.close(),
}
if (child := os.fork()) == 0:
    for name, use in uses.items():
        try:
            use()
        except elm_mlx.errors.Forked as error:
            assert "spawn" in str(error)
            print(name, flush=True)
    stream.close()
    del stream, lm
    sys.exit(7)  # with all that Python does at exit
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stream.close()
print(len(lm.generate("Hi", 3).tokens))  # the parent is as it was
"""


def test_a_forked_process_gets_a_sentence_and_not_a_hang(endless: Path) -> None:
    done = python(IN_THE_CHILD, endless)
    uses = ["generate", "next", "result", "logits", "batch", "load", "convert"]
    assert (done.stdout.split(), done.stderr) == ([*uses, "7", "3"], "")


def test_a_fork_before_the_first_load_may_load(endless: Path) -> None:
    script = "import os, sys, elm_mlx\nif (c := os.fork()) == 0:\n    print(len(elm_mlx.load(sys.argv[1])"
    script += ".generate('Hi', 3).tokens), flush=True)\n    os._exit(0)\nos.waitpid(c, 0)"
    done = subprocess.run(
        [sys.executable, "-c", script, endless], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


AT_EXIT = {
    "unread": "stream = lm.submit('Hi', 100_000)",
    "half read": "stream = lm.stream('Hi', 100_000); next(stream)",
    "read by a daemon thread": """
began = threading.Event()
def read():
    for piece in lm.stream('Hi', 100_000): began.set()
threading.Thread(target=read, daemon=True).start()
began.wait(60)""",
    "in a batch": "answers = lm.batch(['Hi'] * 100, 50, ordered=False); next(answers)",
    "by an error": "stream = lm.submit('Hi', 100_000); raise SystemExit(0)",
    "closed at exit": "import atexit; atexit.register(lm.close); stream = lm.submit('Hi', 100_000)",
    "abandoned tasks": """
import asyncio
async def main():
    tasks = [asyncio.ensure_future(lm.agenerate('Hi', 100_000)) for _ in range(3)]
    await asyncio.sleep(0.2)
asyncio.run(main())""",
}


BY_DEFAULT = ("half read", "read by a daemon thread", "abandoned tasks")  # each kind of reader: none, a thread, a loop
EXITS = [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in AT_EXIT]


@pytest.mark.parametrize("way", EXITS)
def test_a_program_that_ends_amid_an_answer_ends(endless: Path, way: str) -> None:
    script = AT_EXIT[way]
    done = python(script + "\nprint('end')" * ("SystemExit" not in script), endless)
    assert (done.returncode, done.stderr) == (0, "")


WAITS = {
    "generate": "lm.generate('Hi', 100_000)",
    "result": "lm.submit('Hi', 100_000).result()",
    "iteration": "[piece for piece in lm.stream('Hi', 100_000)]",
    "a waiting request": "all = [lm.submit('Hi', 100_000) for _ in range(9)]; list(all[-1])",
    "batch": "list(lm.batch(['Hi'] * 100, 100_000))",
    "batch as they end": "list(lm.batch(['Hi'] * 100, 100_000, ordered=False))",
    "logits": "lm.logits([1] * 2000)",
}


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in WAITS if name != "generate"]


@pytest.mark.parametrize("wait", ["generate", *OTHERS])
def test_ctrl_c_ends_a_wait_at_once_and_the_model_lives_on(endless: Path, wait: str) -> None:
    script = f"""
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    {WAITS[wait]}
except KeyboardInterrupt:
    print("interrupted", flush=True)
all = None
if "logits" not in {wait!r}:
    print(len(lm.generate("Hi", 3).tokens))
"""
    done = python(script, endless)
    assert (done.stdout.split()[0], done.stderr) == ("interrupted", "")
    assert done.stdout.split()[1:] in (["3"], [])


def test_sigterm_ends_the_program_amid_an_answer_with_its_code(endless: Path) -> None:
    command = [sys.executable, "-m", "elm_mlx", "generate", "--model", endless, "--max-tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.read(10)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 143


def test_importing_starts_nothing(endless: Path) -> None:
    script = "import threading, elm_mlx.api, elm_mlx.api.asynchronous; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n"


INTERRUPTED = {
    "load": """
from elm_mlx.api import loading
def interrupted(*given, real=loading.plan_budget):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)  # the engine is opened when its caller waits no longer
    return real(*given)
loading.plan_budget = interrupted
begin = lambda: elm_mlx.load(sys.argv[1])
""",
    "close": """
other = elm_mlx.load(sys.argv[1])
stream = other.submit("Hi", 100_000)
def close():
    lm._worker.thread.post(Order(lambda: time.sleep(0.5)))  # what close has to wait for
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    other.close()
begin = close
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", INTERRUPTED.values(), ids=INTERRUPTED)
def test_ctrl_c_amid_load_or_close_leaves_no_model_behind(endless: Path, script: str) -> None:
    check = """
try:
    begin()
except KeyboardInterrupt:
    print("interrupted")
time.sleep(1)
print(len(thread.running().turns), len(thread.running().holders), len(lm.generate("Hi", 3).tokens))
"""
    imports = "import time\nfrom elm_mlx.device import thread\nfrom elm_mlx.engine.worker import Order\n"
    done = python(imports + script + check, endless)
    assert (done.stdout.split(), done.stderr) == (["interrupted", "1", "1", "3"], "")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "lm.close()", "import mlx.core as mx; mx.eval(mx.ones((3, 3)) @ mx.ones((3, 3)))"])
def test_processes_that_computed_end_without_an_abort(end: str) -> None:
    """Streams of MLX that a thread leaves behind end some processes with one."""
    script = f"import elm_mlx; lm = elm_mlx.load(cpu_policy='compiled'); lm.generate('Once', max_tokens=2)\n{end}"
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=PATIENCE_S, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
