"""A request may name the models that lie on this machine, and nothing else that does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from elm_mlx.demo import demo_directory
from elm_mlx.server.here import books_here, may_be_fetched

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def place(folder: Path) -> Path:
    """Puts a small model into a folder."""
    ignored = shutil.ignore_patterns("*.py", "__pycache__", "draft")
    shutil.copytree(demo_directory(), folder, ignore=ignored)
    return folder


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any model."""
    monkeypatch.setenv("ELM_MLX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_copies_and_cached_models_are_found_by_their_names(machine: Path) -> None:
    copy = place(machine / "own/models/apple--OpenELM-270M" / f"bf16-{COMMIT}")
    snapshot = place(machine / "hub/models--someone--tiny/snapshots" / COMMIT)
    references = machine / "hub/models--someone--tiny/refs"
    references.mkdir()
    (references / "main").write_text(COMMIT)
    found = {book.name: book for book in books_here(most=100)}
    assert found["apple/OpenELM-270M"].source == found["openelm-270m"].source == copy
    assert found["someone/tiny"].source == snapshot
    assert {book.context for book in found.values()} == {100}
    assert not any(book.is_foreign for book in found.values())


def test_what_elm_mlx_does_not_run_is_no_model_here(machine: Path) -> None:
    other = place(machine / "own/models/a--bert" / f"bf16-{COMMIT}")
    (other / "config.json").write_text('{"model_type": "bert"}')
    (machine / "hub/models--a--b/refs").mkdir(parents=True)
    assert books_here() == []


def test_only_names_of_models_may_be_fetched(machine: Path) -> None:
    (machine / "some/folder").mkdir(parents=True)
    names = [
        "openelm-270m",
        "apple/OpenELM-270M",
        "some/folder",
        "../x",
        "/etc/passwd",
        "a/b/c",
        "a/../b",
        "~/x",
        "gpt",
    ]
    assert [name for name in names if may_be_fetched(name)] == ["openelm-270m", "apple/OpenELM-270M"]
