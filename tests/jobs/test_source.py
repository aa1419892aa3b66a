"""The input: lines counted as editors count them, read when they are asked for, and no id twice."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from elm_mlx.errors import DiskFull, ElmError, InvalidRequest, NotFound
from elm_mlx.jobs import source
from elm_mlx.jobs.source import Source, open_source


def source_of(*lines: bytes) -> Source:
    return Source(io.BytesIO(b"\n".join(lines)), "in.jsonl")


def test_lines_are_counted_with_the_empty_ones_and_read_whatever_ends_them() -> None:
    found = source_of(
        b'\xef\xbb\xbf{"id": "a"}\r', b"", b"  \t", b'{"id": "b"}', b"nonsense", b'{"prompt": "x"}'
    ).entries()
    assert [(entry.number, entry.id) for entry in found] == [(1, "a"), (4, "b"), (5, 5), (6, 6)]


def test_lines_are_read_when_they_are_asked_for_and_as_often() -> None:
    file = io.BytesIO(b'{"id": 1}\n{"id": 2}\n')
    entries = Source(file, "in").entries()
    assert next(entries).id == 1
    assert file.tell() == 10
    again = Source(file, "in")
    assert [entry.id for entry in again.entries()] == [entry.id for entry in again.entries()] == [1, 2]


def test_shared_ids_are_refused_with_all_their_lines() -> None:
    shared = source_of(
        b'{"id": "a"}', b'{"id": 1}', b'{"id": "a"}', b'{"custom_id": "a"}', b'{"id": "b"}', b'{"id": "b"}'
    )
    with pytest.raises(InvalidRequest) as refused:
        shared.index()
    assert 'of in.jsonl share an id: "a" (lines 1, 3, 4), "b" (lines 5, 6).' in str(refused.value)
    assert source_of(b'{"id": 1}', b'{"id": "1"}', b"nonsense").index().lines == {"1": 1, '"1"': 2, "3": 3}


@pytest.mark.parametrize("without", [b'{"prompt": "x"}', b"nonsense", b'{"custom_id": 5}'])
def test_a_line_known_by_its_number_shares_it_with_nobody(without: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"2 \(lines 1, 2\)"):
        source_of(b'{"id": 2}', without).index()


def test_of_very_many_shared_ids_some_are_named() -> None:
    lines = [b'{"id": %d}' % (n // 2 + 10_000) for n in range(2000)]
    with pytest.raises(InvalidRequest, match="and 900 more") as refused:
        source_of(*lines).index()
    assert len(str(refused.value)) < 5000


def test_which_lines_are_chats_is_known_before_a_model_is() -> None:
    chat = b'{"id": "a", "messages": []}'
    assert source_of(chat, b'{"custom_id": "b", "body": {"messages": []}}', b'{"prompt": "x"}', b"[").index().chats == {
        '"a"', '"b"',
    }  # fmt: skip


def test_a_large_file_is_never_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    with path.open("wb") as file:
        for number in range(2000):
            file.write(b'{"id": %d, "prompt": "%s"}\n' % (number, b"x" * 10_000))  # 20 MB
    tracemalloc.start()
    with open_source(str(path)) as opened:
        assert len(opened.index().lines) == 2000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


# Where it comes from


def test_a_pipe_is_read_once_and_answered_as_a_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    end, other = os.pipe()
    os.write(other, b'{"id": 1}\n{"id": 2}')
    os.close(other)
    with open_source(f"/dev/fd/{end}") as opened:
        assert [entry.id for entry in opened.entries()] == [entry.id for entry in opened.entries()] == [1, 2]
    os.close(end)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": 3}')))
    with open_source("-") as opened:
        assert (opened.name, list(opened.index().lines)) == ("Standard input", ["3"])


def test_a_pipe_has_a_bound_and_a_disk_that_is_full_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_PIPED", 5)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"123456")))
    with pytest.raises(InvalidRequest, match=r"Standard input has over 5 bytes\. Split it\."), open_source("-"):
        pass
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "wb", buffering=0))  # noqa: SIM115, PTH123
    monkeypatch.setattr(source, "MAX_PIPED", 50)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"123456")))
    if Path("/dev/full").exists():
        with pytest.raises(DiskFull, match="let TMPDIR name another folder"), open_source("-"):
            pass


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind, why in ((tmp_path, ElmError, "Is a directory"), (tmp_path / "none", NotFound, "No such file")):
        with pytest.raises(kind, match=why), open_source(str(name)):
            pass
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InvalidRequest, match="no standard input"), open_source("-"):
        pass
