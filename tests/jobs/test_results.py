"""The output: appended to a whole line at a time, gone on with from any byte, and never another's file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elm_mlx.errors import DiskFull, ElmError, InvalidRequest, TargetExists
from elm_mlx.jobs.results import Results

GOOD = {"id": "a", "text": "Blue.", "tokens": [5], "finish_reason": "stop", "error": None}
BAD = {"id": 2, "text": None, "tokens": [], "finish_reason": None, "error": "Why."}
OPENAI = {"id": "batch_req_1", "custom_id": "c", "response": {"status_code": 200}, "error": None}
KEYS = {'"a"': False, "2": True, '"c"': False}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


ALL = line(GOOD) + line(BAD) + line(OPENAI)


def opened(out: Path) -> Results:
    return Results(str(out))


def test_lines_are_in_the_file_as_soon_as_they_are_added(out: Path) -> None:
    with opened(out) as results:
        results.begin(False)
        results.add('"a"', GOOD)
        assert out.read_bytes() == line(GOOD)
        results.add("2", BAD)
        assert out.read_bytes() == line(GOOD) + line(BAD)
        assert results.failed == {'"a"': False, "2": True}


def test_a_file_cut_at_any_byte_keeps_its_whole_lines(out: Path) -> None:
    for cut in range(len(ALL) + 1):
        out.write_bytes(ALL[:cut])
        whole = ALL[:cut].count(b"\n")
        with opened(out) as results:
            assert out.read_bytes() == ALL[:cut]  # to open it changes nothing
            assert results.failed == dict(list(KEYS.items())[:whole])
            results.begin(False)
        assert out.read_bytes() == b"".join(ALL.splitlines(keepends=True)[:whole])


def test_zeros_that_a_power_failure_left_are_cut_off(out: Path) -> None:
    out.write_bytes(line(GOOD) + b"\0" * 50)
    with opened(out) as results:
        results.begin(False)
    assert out.read_bytes() == line(GOOD)


@pytest.mark.parametrize(
    "foreign",
    [
        b"a diary\n",
        b"a diary",
        b'{"id": 1, "name": "x"}',
        b'{"id": 1, "name": "x"}\n',
        b"{}\n",
        b"\n",
        line(GOOD) + b"a diary\n",
        line(GOOD) + b"a diary",
        line(GOOD) + line(GOOD),
        line(GOOD | {"id": True}),
        line(OPENAI | {"custom_id": 1}),
        line(GOOD) + b'{"id": "b", "prompt": "x"}\n',
        b"\xff\xfe\n",
        b'{"id": ' + b"[" * 100_000 + b"\n",
    ],
    ids=range(14),
)
def test_another_file_is_refused_and_keeps_its_bytes(out: Path, foreign: bytes) -> None:
    out.write_bytes(foreign)
    with pytest.raises(TargetExists, match=r"line \d was not written by a job"), opened(out):
        pass
    assert out.read_bytes() == foreign


def test_the_answers_to_other_requests_are_refused(out: Path) -> None:
    out.write_bytes(ALL)
    with opened(out) as results:
        results.refuse_others(KEYS.keys(), False)
        results.refuse_others(KEYS.keys() | {"9"}, False)
        results.refuse_others({'"a"', '"c"'}, True)  # the error would not stay
        for lacking in KEYS:
            with pytest.raises(TargetExists, match="has answers to other requests: 1, the first"):
                results.refuse_others(KEYS.keys() - {lacking}, False)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "below a file"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    place = {"folder": tmp_path, "pipe": tmp_path / "pipe", "device": "/dev/null", "below a file": tmp_path / "file/x"}
    with pytest.raises(ElmError), Results(str(place[kind])):
        pass


def test_one_job_at_a_time_writes_to_a_file(out: Path) -> None:
    def another() -> str:
        """What another process is told that opens the file."""
        code = f"from elm_mlx.jobs.results import Results\nwith Results({str(out)!r}): print('open')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    out.write_bytes(ALL)
    with opened(out) as results:
        assert "Another job writes to" in another()
        results.begin(True)  # makes a new file
        assert "Another job writes to" in another()
    assert another() == "open\n"


# Errors asked again


def test_lines_with_errors_are_taken_out_when_they_are_asked_again(out: Path) -> None:
    out.write_bytes(ALL + line(GOOD)[:9])
    out.chmod(0o640)
    link = out.with_name("link")
    link.symlink_to(out)
    with opened(link) as results:
        results.begin(True)
        assert out.read_bytes() == line(GOOD) + line(OPENAI)
        assert results.failed == {'"a"': False, '"c"': False}
        results.add("2", GOOD | {"id": 2})
    assert out.read_bytes() == line(GOOD) + line(OPENAI) + line(GOOD | {"id": 2})
    assert (link.is_symlink(), out.stat().st_mode & 0o777) == (True, 0o640)
    assert {path.name for path in out.parent.iterdir()} == {"link", "out.jsonl"}


def test_replacing_errors_leaves_the_file_whole_if_it_fails(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.write_bytes(ALL)
    monkeypatch.setattr(os, "pwrite", full_after(10))
    with pytest.raises(DiskFull), opened(out) as results:
        results.begin(True)
    assert out.read_bytes() == ALL
    assert list(out.parent.iterdir()) == [out]


def test_what_a_killed_replacement_left_is_no_hindrance(out: Path) -> None:
    out.write_bytes(ALL)
    out.with_name(".out.jsonl.elm-mlx-retry").write_bytes(ALL * 2)
    with opened(out) as results:
        results.begin(True)
    assert out.read_bytes() == line(GOOD) + line(OPENAI)
    assert list(out.parent.iterdir()) == [out]


# Full disks


def full_after(room: int) -> Any:
    """An os.pwrite for a disk that has room for so many bytes more."""
    real, left = os.pwrite, [room]

    def pwrite(descriptor: int, data: bytes, place: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[: left[0]], place)
        left[0] -= written
        return written

    return pwrite


@pytest.mark.parametrize("room", [0, 1, 30, len(line(GOOD)), len(line(GOOD)) + 7])
def test_a_full_disk_is_said_and_leaves_whole_lines(out: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(os, "pwrite", full_after(room))
    with opened(out) as results:
        results.begin(False)
        with pytest.raises(DiskFull, match="the disk is full"):
            add_all(results)
    assert out.read_bytes() == (line(GOOD) if room >= len(line(GOOD)) else b"")


def add_all(results: Results) -> None:
    results.add('"a"', GOOD)
    results.add("2", BAD)


def test_a_job_that_fails_before_its_first_line_leaves_no_file(out: Path) -> None:
    with pytest.raises(InvalidRequest), opened(out):
        raise InvalidRequest("The model is not there.")
    assert not out.exists()
    out.touch()
    with pytest.raises(InvalidRequest), opened(out):
        raise InvalidRequest("The model is not there.")
    assert out.exists()  # it was there before
