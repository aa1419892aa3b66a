"""A server with the demo behind real sockets, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.live_house import Live, living

import elm_mlx


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living() as live:
        yield live


@pytest.fixture(scope="module")
def demo() -> Iterator[elm_mlx.LanguageModel]:
    with elm_mlx.load() as lm:
        yield lm
