"""Marks for tests that run with a model of either family."""

from __future__ import annotations

import pytest
from helpers import checkpoints

FIRST, SECOND = checkpoints.FAMILIES
# For what knows no architecture: one family proves it by default, and both do in .ci/run.
second_family_slow = pytest.mark.parametrize(
    "source", [FIRST, pytest.param(SECOND, marks=pytest.mark.slow)], indirect=True
)
