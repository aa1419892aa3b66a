"""A checkpoint's small files: read whole or refused, whatever lies in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elm_mlx.errors import BadCheckpoint, NotFound
from elm_mlx.files import MAX_SMALL_BYTES, optional_json, read_bytes, read_json, read_text


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
