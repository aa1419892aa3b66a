"""A checkpoint's small files: read whole or refused, whatever lies in their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from elm_mlx.errors import BadCheckpoint, DiskFull, NotFound
from elm_mlx.files import (
    MAX_SMALL_BYTES,
    SPARE_BYTES,
    check_room,
    optional_json,
    read_bytes,
    read_json,
    read_text,
    readable_size,
)


def test_a_pipe_and_a_device_are_no_files(tmp_path: Path, pipe: Path) -> None:
    for place in (pipe, Path("/dev/null"), tmp_path):
        link = tmp_path / f"config-{place.name}.json"
        link.symlink_to(place)
        for read in (read_json, optional_json, lambda path: read_bytes(path, 10), lambda path: read_text(path, 10)):
            with pytest.raises(BadCheckpoint, match=r"config-.*json cannot be read: it is a folder, a pipe"):
                read(link)


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
