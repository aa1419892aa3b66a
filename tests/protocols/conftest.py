"""The demo model, and what an answer of it is told with."""

from __future__ import annotations

import pytest

import elm_mlx
from elm_mlx.protocols.dialect import Facts


@pytest.fixture(scope="session")
def demo() -> elm_mlx.LanguageModel:
    return elm_mlx.load()


@pytest.fixture(scope="session")
def facts(demo: elm_mlx.LanguageModel) -> Facts:
    return Facts("a1b2c3", 1_750_000_000, "demo", demo)
