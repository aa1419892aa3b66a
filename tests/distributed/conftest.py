"""Models of two layers: more prove nothing of what runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import checkpoints
from helpers.shallow import lm, openelm, shallow, source

__all__ = ["endless", "lm", "openelm", "source"]


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers take minutes."""
    config = shallow(checkpoints.OPENELM) | {"eos_token_id": None, "max_context_length": 10**6}
    return checkpoints.write(tmp_path_factory.mktemp("endless") / "model", config)
