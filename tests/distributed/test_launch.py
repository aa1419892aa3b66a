"""What the launcher tells the ranks, and how it ends them: shell scripts stand for Python, so that this takes little
time. tests/distributed/test_commands.py starts the real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from helpers.command_line import PATIENCE_S

from elm_mlx.cli.rank import take
from elm_mlx.distributed import launch as launching
from elm_mlx.distributed.host_file import Host, Machines, machines_here
from elm_mlx.distributed.launch import Job, Launcher, orders_of, seats_of
from elm_mlx.distributed.rank_files import remove_files
from elm_mlx.distributed.rank_process import Orders, Seat, remote_line
from elm_mlx.errors import InvalidRequest

# It is started as Python is: -P -m MODULE FD. Its first argument says what it does; "hear" ends when a rank has talked.
PYTHON = """#!/bin/sh
read -r orders < /dev/fd/$4
case "$orders" in
*'["end '*) code=${orders#*'["end '}; exit "${code%%'"'*}";;
*'["killed"'*) kill -9 $$;;
*'["talk"'*) echo said; : > "$0.said"; exit 0;;
*'["hear '*) until [ -e "$0.said" ]; do sleep 0.02; done; code=${orders#*'["hear '}; exit "${code%%'"'*}";;
*'["obey"'*) trap 'exit 143' TERM; exec 3< /dev/fd/$4; read -r more <&3; exit 7;;
*'["deaf"'*) trap '' TERM; while :; do sleep 0.05; done;;
esac
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    path = tmp_path / "python"
    path.write_text(PYTHON, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"GRACE_S": 0.1, "DRAIN_S": 0.2, "LEAVE_S": 1.0, "LAST_S": 1.0}.items():
        monkeypatch.setattr(launching, name, seconds)


def run(python: str, *words: str, elsewhere: str = "") -> tuple[int, list[str]]:
    """(the exit code, what was said) of ranks that do what these words say; those above 0 on another machine, if it is
    named."""
    said: list[str] = []
    launcher = Launcher(said.append)
    seats = [Seat(rank, elsewhere or "127.0.0.1", not (rank and elsewhere), python) for rank in range(len(words))]
    code = launcher.run(seats, [Orders([word], {}, {}, "/") for word in words])
    assert all(rank.code is not None for rank in launcher._ranks), "a rank is left"
    return code, said


def test_a_rank_is_told_who_it_is_and_all_of_one_command() -> None:
    first, second = orders_of(Job(["generate", "-p", "a b"], machines_here(2)))
    assert (first.environment.pop("MLX_RANK"), second.environment.pop("MLX_RANK")) == ("0", "1")
    assert first == second
    assert first.arguments == ["generate", "-p", "a b"]
    ring = json.loads(first.files["MLX_HOSTFILE"])
    places = {place for host in ring for place in host} | {first.environment["ELM_MLX_CONTROL"]}
    assert len(places) == 3
    assert all(place.startswith("127.0.0.1:") for place in places)
    assert len(first.environment["ELM_MLX_JOB"]) == 32


def test_a_job_of_jaccl_names_coordinator_and_devices() -> None:
    devices = ((None, "rdma_en1"), ("rdma_en1", None))
    hosts = tuple(Host("127.0.0.1", ("10.0.0.1",), rdma) for rdma in devices)
    told = orders_of(Job(["chat"], Machines(hosts, envs=(("MLX_METAL_FAST_SYNCH", "1"),)), "jaccl-ring"))[1]
    assert json.loads(told.files["MLX_IBV_DEVICES"]) == [[None, "rdma_en1"], ["rdma_en1", None]]
    assert told.environment["MLX_JACCL_COORDINATOR"] == "10.0.0.1:32323"
    assert told.environment["ELM_MLX_CONTROL"] == "10.0.0.1:32324"
    assert (told.environment["MLX_JACCL_RING"], told.environment["MLX_METAL_FAST_SYNCH"]) == ("1", "1")


def test_other_machines_get_wishes_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_TOP_K", "3")
    monkeypatch.setenv("ELM_MLX_API_KEY", "secret")
    told = orders_of(Job(["serve"], machines_here(2)))[1].environment
    assert told["ELM_MLX_TOP_K"] == "3"
    assert "ELM_MLX_API_KEY" not in told


def test_a_rank_hears_nothing_of_an_earlier_run(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = {"MLX_HOSTFILE": "old", "MLX_IBV_DEVICES": "old", "MLX_JACCL_RING": "1", "MLX_RANK": "5"}
    for name, value in earlier.items():
        monkeypatch.setenv(name, value)
    (first, _) = orders_of(Job(["chat"], machines_here(2)))
    assert earlier.keys() & first.environment.keys() == {"MLX_RANK"}
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a rank of this machine has the launcher's
    take(asdict(first))
    remove_files()
    assert os.environ["MLX_HOSTFILE"].endswith("MLX_HOSTFILE.json")
    assert os.environ["MLX_RANK"] == "0"
    assert not {"MLX_IBV_DEVICES", "MLX_JACCL_RING"} & os.environ.keys()


def test_a_rank_removes_its_own_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELM_MLX_RANK_FILES", str(tmp_path))
    remove_files()
    assert tmp_path.is_dir()


def test_rank_0_is_this_machine() -> None:
    elsewhere, here = Host("mac9.local", ("198.18.0.9",)), Host("localhost", ("127.0.0.1",))
    with pytest.raises(InvalidRequest, match="The first host is mac9"):
        seats_of(Job(["chat"], Machines((elsewhere, here))))
    assert [seat.is_here for seat in seats_of(Job(["chat"], Machines((here, elsewhere))))] == [True, False]


def test_a_shell_elsewhere_gets_pythons_path_and_nothing_of_the_command() -> None:
    words = ["/a b/$(x)'y/python", "-P", "-m", "elm_mlx.cli.rank", "0"]
    told = subprocess.run(["sh", "-c", remote_line(["printf", "%s|", *words])], capture_output=True, check=True)
    assert told.stdout.decode() == "".join(f"{word}|" for word in words)


def test_the_exit_code_is_that_of_rank_0(python: str) -> None:
    assert run(python, "end 0", "obey", "end 0") == (0, [])
    assert run(python, "end 78", "obey") == (78, [])


def test_a_rank_that_fails_ends_all_with_its_code(python: str) -> None:
    assert run(python, "deaf", "end 71", "deaf") == (71, [])


def test_rank_0_may_say_first_why_it_ends(python: str) -> None:
    """It is given a while, in which it notices by itself."""
    launching.GRACE_S = 5.0
    assert run(python, "end 5", "end 87") == (5, [])


def test_a_killed_rank_is_named(python: str) -> None:
    assert run(python, "deaf", "killed") == (137, ["Rank 1 was ended by signal 9 (SIGKILL)."])


def test_lines_of_other_ranks_have_their_number_and_come_once(python: str) -> None:
    code, said = run(python, "obey", "talk", "hear 3", "talk")
    assert (code, said[0][:5], said[0][6:], len(said)) == (3, "rank ", ": said", 1)


def test_a_rank_elsewhere_is_started_by_ssh(python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script stands for ssh: it has the shell of the other machine do the last argument."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@" >&2\nfor last; do :; done\nexec sh -c "$last"\n', encoding="utf-8")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    code, said = run(python, "obey", "talk", "hear 255", elsewhere="me@mac2.local")
    assert code == 255
    asked = [line[len("rank 1") :] for line in said if "BatchMode=yes" in line and line.startswith("rank ")]
    assert len(asked) == 1  # of both the same, and of that one which comes first
    assert asked[0].startswith(" (me@mac2.local): -T -o BatchMode=yes")
    assert "rank 1 (me@mac2.local): said" in said
    assert any(line.startswith("Rank 2 (me@mac2.local) did not start, or its connection broke.") for line in said)
    assert "`ssh -o BatchMode=yes me@mac2.local true`" in "".join(said)


def test_sigterm_ends_rank_0_first_and_then_all(python: str) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert run(python, "obey", "obey") == (143, [])
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert run(python, "deaf", "deaf") == (143, [])


def test_ranks_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    """The real entry of a rank, and a launcher that has no time for anything."""
    pids = tmp_path / "pids"
    orders = Orders(["completion", "bash"], {}, {"MLX_HOSTFILE": "[]"}, str(tmp_path))
    script = f"""
import os, sys, threading
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import elm_mlx.cli, elm_mlx.cli.rank as rank
def main():
    open({str(pids)!r} + sys.argv[1], "w").write(os.environ["MLX_HOSTFILE"])
    os.write(1, b"x")
    threading.Event().wait()
elm_mlx.cli.main = main
rank.main()
"""
    reading, writing = os.pipe()
    child = subprocess.Popen([sys.executable, "-c", script, str(reading)], pass_fds=(reading,), stdout=subprocess.PIPE)
    os.close(reading)
    os.write(writing, orders.line())
    assert child.stdout
    assert child.stdout.read(1) == b"x"
    files = [Path(path.read_text(encoding="utf-8")) for path in tmp_path.glob("pids*")]
    assert [path.read_text(encoding="utf-8") for path in files] == ["[]"]
    os.close(writing)
    assert child.wait(timeout=PATIENCE_S) == -signal.SIGTERM, "no handler of SIGTERM was set, so it ends by the signal"
    child.stdout.close()
