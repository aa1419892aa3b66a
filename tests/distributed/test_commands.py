"""The commands over several ranks of this machine, as they are typed: they say what one process says, and leave nothing
behind."""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import select
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints
from helpers.command_line import PROGRAM, Result, run
from helpers.followed import ran
from helpers.rank_runs import free_ports

from elm_mlx.errors import RankFailed

PATIENCE_S = 120  # on a busy machine
MARK = "ELM_MLX_TESTS_MARK"  # by which processes are found that one of these tests has begun
DIVIDING = checkpoints.LLAMA | {"num_hidden_layers": 2, "intermediate_size": 256}
GREEDY = ("--temperature", 0, "-q")
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that two ranks can share."""
    return checkpoints.write(tmp_path_factory.mktemp("llama") / "llama", DIVIDING)


def left(mark: str) -> list[int]:
    """The processes that began with this mark and are still there."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:
            continue
    return found


class Launched:
    """A launcher that runs. `out` are the lines of its standard output."""

    def __init__(self, *words: object, ranks: int = 2, line: Sequence[str] = ()) -> None:
        self.mark = secrets.token_hex(8)
        line = [*PROGRAM, *(line or ["launch", "-n", str(ranks), *map(str, words)])]
        ran("elm-mlx", *line[len(PROGRAM) :])
        environment = os.environ | {MARK: self.mark}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)

    def ends(self, stdin: bytes = b"") -> Result:
        """Waits until it has ended, and all ranks with it."""
        out, err = self.process.communicate(stdin, timeout=PATIENCE_S)
        return Result(self.process.returncode, out.decode(), err.decode())

    def ranks(self) -> list[int]:
        """The processes of the ranks."""
        return [pid for pid in left(self.mark) if pid != self.process.pid]

    def rank(self, number: int) -> int:
        """The process of a rank."""
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in self.ranks()}
        return next(pid for pid, words in lines.items() if (words[-2] == b"0") == bool(number))  # of the lifeline


def launched(*words: object, ranks: int = 2, stdin: bytes = b"") -> Result:
    """What a command over so many ranks did."""
    return Launched(*words, ranks=ranks).ends(stdin)


def test_two_ranks_say_what_one_process_says(llama: Path) -> None:
    words = ("generate", "--model", llama, "--prompt", "Once", "-n", 8, *GREEDY)
    assert launched(*words, "--parallel", "tensor") == run(*words)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-n 2 generate", "Add --parallel tensor"),
        ("-n 2 generate --prompt --parallel", "Add --parallel tensor"),
        ("-n 2 generate --temperature warm --parallel tensor", "'warm' is not a valid number"),
        ("-n 2 train --parallel tensor", "`train` does not run on several ranks"),
        ("generate --parallel tensor", "Give either --ranks 2 or --hosts FILE"),
        ("--hosts nowhere.json chat --parallel tensor", "There is no host file nowhere.json"),
        ("-n 2 --backend jaccl chat --parallel tensor", "JACCL needs 2 entries as rdma of 127.0.0.1"),
    ],
)
def test_what_cannot_be_is_refused_before_a_rank_is_started(line: str, why: str) -> None:
    done = run("launch", *line.split())
    assert why in done.err
    assert done.code in (2, 66)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("generate --lookup", "Leave --lookup or --parallel out"),
        ("generate --draft auto", "Leave --draft or --parallel out"),
        ("generate --adapter nowhere", "Leave --adapter or --parallel out"),
        ("generate --save-cache x", "Leave --save-cache or --parallel out"),
        ("serve --model a --model b", "Name one as --model"),
        ("serve --pull", "Leave --pull or --parallel out"),
        ("serve --keep-alive 5m", "Leave --keep-alive out"),
        ("bench --compare mlx-lm", "Leave --compare or --parallel out"),
        ("bench -d 64", "Give -p 0"),
    ],
)
def test_a_rank_refuses_what_several_do_not_do(line: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_RANK", "0")
    done = run(*line.split(), "--parallel", "tensor")
    assert (done.code, why in done.err) == (2, True), done.err


def test_one_process_alone_is_told_how_to_start_two() -> None:
    done = run("chat", "--parallel", "pipeline")
    assert done.code == 2
    assert "`elm-mlx launch -n 2 chat --parallel pipeline`, with your other options, starts two here" in done.err


@pytest.mark.follows("elm-mlx launch", "elm-mlx launch -n * * --parallel *")
@pytest.mark.slow
def test_the_advised_command_starts_two_ranks() -> None:
    advised = re.findall("`elm-mlx (launch [^`]*)`", run("generate", "--parallel", "pipeline").err)
    (done,) = [Launched(line=shlex.split(line)).ends(b"Once") for line in advised]
    assert (done.code, len(done.out) > 100) == (0, True)


@pytest.mark.slow
def test_ranks_that_cannot_begin_are_told_options_as_they_are_typed() -> None:
    done = launched("generate", "-p", "Once", "--parallel", "tensor")
    assert done.code == 87
    assert "of the kind openelm" in done.err
    assert "Give --parallel pipeline." in done.err


def test_a_wish_for_ranks_means_nothing_alone(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_PARALLEL", "tensor")
    done = run("generate", "--model", llama, "--prompt", "Once", "-n", 1)
    assert done.code == 0
    assert "ELM_MLX_PARALLEL=tensor is ignored" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_pipeline_of_the_demo_says_what_one_process_says(ranks: int) -> None:
    words = ("generate", "-n", 24, *GREEDY)
    story = b"Once upon a time"  # rank 0 has the launcher's own input
    assert launched(*words, "--parallel", "pipeline", ranks=ranks, stdin=story) == run(*words, stdin=story)


@pytest.mark.slow
def test_the_hosts_of_a_file_may_be_one_machine(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps([{"ssh": "localhost", "ips": ["127.0.0.1"]}] * 2), encoding="utf-8")
    words = ["generate", "--model", llama, "--prompt", "Once", "-n", 8, *GREEDY]
    line = ["launch", "--hosts", file, "--starting-port", free_ports(8), *words, "--parallel", "tensor"]
    assert Launched(line=[str(word) for word in line]).ends() == run(*words)


@pytest.mark.slow
def test_a_conversation_goes_over_two_ranks() -> None:
    words, said = ("chat", "--max-tokens", 12, *GREEDY), b"Once there was\nAnd then\n/exit\n"
    assert launched(*words, "--parallel", "pipeline", stdin=said) == run(*words, stdin=said)


@pytest.mark.slow
def test_a_file_of_requests_is_answered_over_two_ranks(llama: Path, tmp_path: Path) -> None:
    asked = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": str(number), "prompt": f"Number {number}", "temperature": 1}) for number in range(9)]
    asked.write_text("\n".join(lines), encoding="utf-8")
    answers = []
    for name, call, more in (("one", run, ()), ("two", launched, ("--parallel", "tensor"))):
        done = call("batch", asked, "-o", tmp_path / name, "-n", 8, "--model", llama, *more)
        assert done.code == 0, done.err
        answers.append(sorted((tmp_path / name).read_text(encoding="utf-8").splitlines()))
    assert answers[0] == answers[1]
    again = launched("batch", asked, "-o", tmp_path / "two", "-n", 8, "--model", llama, "--parallel", "tensor")
    assert (again.code, "Lines written before: 9" in again.err) == (0, True), "and rank 0 needs no other rank"


@pytest.mark.slow
def test_speed_is_measured_over_two_ranks(llama: Path) -> None:
    words = ("bench", "--json", "-p", 16, "-n", 4, "-r", 1, "--model", llama, "--parallel", "tensor")
    (model,) = json.loads(launched(*words).out)["models"]
    assert [test["test"] for test in model["tests"]] == ["ttft16", "pp16", "tg4"]
    assert model["options"] == {"parallel": "tensor over 2 ranks"}
    (model,) = json.loads(launched(*words, "-b", 2).out)["models"]
    assert [batch["test"] for batch in model["batches"]] == ["pp16 tg4 b2"]


@contextmanager
def serving(llama: Path, *words: object) -> Iterator[tuple[Launched, str]]:
    """A server over two ranks, and its address."""
    server = Launched("serve", "--port", 0, "--json", "--model", llama, "--parallel", "tensor", *words)
    try:
        assert server.process.stdout
        yield server, json.loads(server.process.stdout.readline())["url"]
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate(timeout=PATIENCE_S)


def ask(url: str, **body: Any) -> Any:
    data = json.dumps({"prompt": "Once", "max_tokens": 6, "temperature": 0} | body).encode()
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", data, headers), timeout=60) as answer:
        return json.load(answer)["choices"][0]["text"]


@needs_proc
@pytest.mark.slow
def test_a_server_over_two_ranks_answers_and_ends_in_good_order(llama: Path) -> None:
    with serving(llama) as (server, url):
        expected = run("generate", "--model", llama, "--prompt", "Once", "-n", 6, *GREEDY).out.strip()
        assert [ask(url).strip(), ask(url).strip()] == [expected] * 2
        server.process.terminate()
        done = server.ends()
        assert (done.code, left(server.mark)) == (143, [])


def kill_launcher(server: Launched) -> None:
    server.process.kill()


def kill_rank(number: int, by: int = signal.SIGKILL) -> Callable[[Launched], None]:
    return lambda server: os.kill(server.rank(number), by)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (kill_launcher, -signal.SIGKILL, ""),
        (kill_rank(0), 128 + signal.SIGKILL, "rank 1: Error: Rank 0 (127.0.0.1) has ended"),
        (kill_rank(1), RankFailed.exit_code, "Rank 1 (127.0.0.1) has ended"),
        (kill_rank(1, signal.SIGTERM), RankFailed.exit_code, "Rank 1 (127.0.0.1) failed: it was told to end"),
    ],
    ids=["the launcher", "rank 0", "rank 1", "rank 1 by SIGTERM"],
)
def test_whatever_is_killed_all_of_it_ends(
    fault: Callable[[Launched], None], code: int, said: str, llama: Path
) -> None:  # fmt: skip
    with serving(llama) as (server, url):
        ask(url)
        fault(server)
        done = server.ends()
        until = time.monotonic() + 15
        while left(server.mark) and time.monotonic() < until:
            time.sleep(0.1)
        assert (done.code, left(server.mark)) == (code, [])
        assert said in done.err


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_stops_an_answer_and_no_rank() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(
            sys.executable, [*PROGRAM, "launch", "-n", "2", "chat", "--parallel", "pipeline", "--temperature", "0"]
        )
    wait_for(terminal, b"> ")
    os.write(terminal, b"Once upon a time\n")
    wait_for(terminal, b"there lived")
    os.write(terminal, b"\x03")
    wait_for(terminal, b"> ")
    os.write(terminal, b"/stats\n")
    wait_for(terminal, b"(?s)tokens/s.*> ")  # Ctrl-D before the prompt would be the terminal's own
    os.write(terminal, b"\x04")  # Ctrl-D
    with suppress(OSError):  # the terminal is gone
        wait_for(terminal, b"nothing of it")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def wait_for(terminal: int, pattern: bytes) -> None:
    """Reads from a terminal until a pattern is found. Raises OSError where the terminal is closed."""
    seen, until = b"", time.monotonic() + PATIENCE_S
    while not re.search(pattern, seen):
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 4096)


@needs_proc
def test_ctrl_c_while_the_first_ranks_python_starts_ends_all_with_its_code(llama: Path) -> None:
    command = Launched("generate", "--model", llama, "--prompt", "Once", "-n", 4, "--parallel", "tensor", "-q")
    until = time.monotonic() + PATIENCE_S
    while not (ranks := command.ranks()):
        assert time.monotonic() < until
    os.kill(min(ranks), signal.SIGINT)  # rank 0, which is started first
    done = command.ends()
    assert (done.code, done.out, done.err) == (130, "", "")
    assert left(command.mark) == []


@needs_proc
@pytest.mark.slow
def test_ten_starts_and_stops_leave_no_process(llama: Path) -> None:
    for number in range(10):
        command = Launched("generate", "--model", llama, "--prompt", "Once", "-n", 4, "--parallel", "tensor", "-q")
        if number % 2:
            while not command.ranks():  # before that the launcher's own Python may be starting
                assert command.process.poll() is None
            time.sleep(0.25 * number)  # in the midst of it: imports, the meeting, loading, an answer
            command.process.send_signal((signal.SIGINT, signal.SIGTERM)[number // 2 % 2])
        done = command.ends()
        assert done.code in ((0,) if number % 2 == 0 else (0, 130, 143, -signal.SIGINT)), done.err
        assert left(command.mark) == []


@pytest.mark.slow
def test_mlx_launch_starts_the_same_commands(llama: Path) -> None:
    words = [
        "generate",
        "--model",
        str(llama),
        "--prompt",
        "Once",
        "-n",
        "8",
        *map(str, GREEDY),
        "--parallel",
        "tensor",
    ]
    launcher = Path(sys.executable).with_name("mlx.launch")
    line = [str(launcher), "-n", "2", "--backend", "ring", "--", *PROGRAM, *words]
    done = subprocess.run(line, capture_output=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, check=True)
    assert run(*words[:-2]).out in done.stdout.decode()
