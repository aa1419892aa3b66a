"""A checkpoint's small files: read whole or refused, whatever lies in their place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from elm_mlx import files
from elm_mlx.errors import BadCheckpoint, DiskFull, ElmError, NotFound
from elm_mlx.files import (
    MAX_SMALL_BYTES,
    SPARE_BYTES,
    can_name_a_file,
    check_room,
    disk_errors,
    optional_json,
    read_bytes,
    read_json,
    read_text,
    readable_size,
    write_whole,
)


def test_a_pipe_and_a_device_are_no_files(tmp_path: Path, pipe: Path) -> None:
    for place in (pipe, Path("/dev/null"), tmp_path):
        link = tmp_path / f"config-{place.name}.json"
        link.symlink_to(place)
        for read in (read_json, optional_json, lambda path: read_bytes(path, 10), lambda path: read_text(path, 10)):
            with pytest.raises(BadCheckpoint, match=r"config-.*json cannot be read: it is a folder, a pipe"):
                read(link)


def test_a_pointer_that_git_lfs_left_is_no_file_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", encoding="utf-8")
    for read in (read_json, optional_json, lambda path: read_bytes(path, 1000), lambda path: read_text(path, 1000)):
        with pytest.raises(BadCheckpoint, match=r"chat_template\.jinja is a Git LFS pointer.* `git lfs pull`"):
            read(path)


def test_a_limit_is_held_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(BadCheckpoint, match="too large"):
        read_bytes(path, 4)


def test_a_configuration_of_over_a_megabyte_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": "a" * MAX_SMALL_BYTES}), encoding="utf-8")
    for read in (read_json, optional_json):
        with pytest.raises(BadCheckpoint, match="over 1 MB, too large"):
            read(path)
        assert read(path, 2 * MAX_SMALL_BYTES).keys() == {"a"}


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    assert optional_json(tmp_path / "a.json") == {}
    for read in (read_json, lambda path: read_bytes(path, 10), lambda path: read_text(path, 10)):
        with pytest.raises(NotFound, match=r"no a\.json in "):
            read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (20_000, "20 kB"), (2_400_000, "2.4 MB"),
     (152_797_696, "153 MB"), (1_090_000_000, "1.09 GB"), (24 * 10**9, "24 GB")],
)  # fmt: skip
def test_a_size_is_said_in_a_unit_that_shows_it(count: int, words: str) -> None:
    assert readable_size(count) == words


@pytest.mark.parametrize("free", [SPARE_BYTES + 10**9 - 1, 5])
def test_a_refusal_for_want_of_room_says_what_is_asked_for_and_how_much_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(DiskFull) as refused:
        check_room("It", "Name another {output}.", (tmp_path / "not" / "there", 10**9))
    lacking = readable_size(SPARE_BYTES + 10**9 - free)
    assert refused.value.message == (f"It needs 1.00 GB of disk, and 64 MB have to stay free: {tmp_path} has "
                                     f"{readable_size(free)} free, {lacking} too little.")  # fmt: skip
    assert refused.value.advice == "Name another {output}."


def test_what_writes_nothing_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    check_room("It", "", (tmp_path, 0), (tmp_path, -1))


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    write_whole(file, "grüße")
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, "new")
    assert (file.read_text(encoding="utf-8"), link.is_symlink(), file.stat().st_mode & 0o777) == ("new", True, 0o640)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    for path in (file, tmp_path / "other"):
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "newer")
    assert file.read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.ENOSPC, DiskFull, "Free some space, or name another {output}."),
        (errno.EDQUOT, DiskFull, "Free some space, or name another {output}."),
        (errno.EMFILE, ElmError, "Let this process open more files: ulimit -n 1024."),
        (errno.EACCES, ElmError, "Check its permissions, or name another {output}."),
    ],
)
def test_what_the_system_refuses_comes_with_advice_that_helps(number: int, kind: type[ElmError], advice: str) -> None:
    with pytest.raises(kind) as caught, disk_errors("OUT cannot be written"):
        raise OSError(number, os.strerror(number))
    assert (type(caught.value), caught.value.advice) == (kind, advice)


@pytest.mark.parametrize(
    ("instead", "advice"), [("take a walk", "Free some space, or take a walk."), ("", "Free some space.")]
)
def test_the_advice_for_a_full_disk_is_the_callers_own(instead: str, advice: str) -> None:
    with pytest.raises(DiskFull) as caught, disk_errors("It failed", "Look at it.", instead):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.advice == advice


def test_a_path_that_the_system_does_not_take_names_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "loop", tmp_path / "loop" / "more"):
        assert can_name_a_file(path)
    for path in (tmp_path / ("x" * 300), tmp_path / "a\0b"):
        assert not can_name_a_file(path)
