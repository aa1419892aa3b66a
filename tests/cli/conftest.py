"""Models that the command line is tried on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.small_demo import small_demo, small_demo_folder

__all__ = ["small_demo", "small_demo_folder"]


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows no end-of-text id, so it generates until it is stopped."""
    raw = checkpoints.LLAMA | {"eos_token_id": None, "max_position_embeddings": 100_000}
    folder = checkpoints.write(tmp_path_factory.mktemp("models") / "endless", raw)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "add_bos_token": true}', encoding="utf-8")
    return folder


@pytest.fixture
def damaged(openelm: Path, tmp_path: Path) -> Path:
    """A copy of the tiny OpenELM, for a test to break."""
    return Path(shutil.copytree(openelm, tmp_path / "model"))
