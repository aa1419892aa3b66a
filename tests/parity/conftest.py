"""These import torch and transformers, which takes seconds: only a run that wants them even looks at them."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if "not parity" in config.option.markexpr else None
