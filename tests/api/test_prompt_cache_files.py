"""The files of saved keys and values: which names they may have, and that no other file is lost to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.errors import InvalidRequest, TargetExists

PROMPT = checkpoints.prompt(60)


@pytest.fixture
def fresh(openelm: Path) -> Iterator[elm_mlx.LanguageModel]:
    """A model that has answered nothing yet."""
    with elm_mlx.load(openelm) as lm:
        yield lm


def test_saving_replaces_saved_keys_and_values_and_no_other_file(fresh: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    fresh.save_cache(PROMPT, saved)
    saved.chmod(0o600)
    assert fresh.save_cache([*PROMPT, 7], saved) == len(PROMPT) + 1
    assert fresh.load_cache(saved) == len(PROMPT) + 1
    assert saved.stat().st_mode & 0o777 == 0o600
    (tmp_path / "empty").touch()
    assert fresh.save_cache(PROMPT, tmp_path / "empty") == len(PROMPT)
    (tmp_path / "thesis").write_text("A year of work.")
    os.mkfifo(tmp_path / "pipe")
    weights = fresh.directory / "model.safetensors"
    for other in (tmp_path / "thesis", tmp_path / "pipe", weights):
        with pytest.raises(TargetExists, match="is not a file of saved keys and values"):
            fresh.save_cache(PROMPT, other)
    assert (tmp_path / "thesis").read_text() == "A year of work."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "pipe", "saved", "thesis"]


def test_a_name_that_mlx_could_not_read_again_is_refused(fresh: elm_mlx.LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is not UTF-8 text"):
        fresh.save_cache(PROMPT, tmp_path / "\udcff")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [None, 5, b"bytes", "", "a\0b", "x" * 5000])
def test_paths_that_are_none_are_refused(fresh: elm_mlx.LanguageModel, path: Any) -> None:
    for call in (lambda: fresh.save_cache(PROMPT, path), lambda: fresh.load_cache(path)):
        with pytest.raises(elm_mlx.ElmError, match=r"path|cannot be a file to write|cannot be read"):
            call()
