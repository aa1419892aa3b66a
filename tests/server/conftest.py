"""Servers behind real sockets: the demo in this process, for all tests of a module, and one for real clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import chat_templates, scripts
from helpers.live_house import Live, living
from helpers.served import Served, serving

import elm_mlx

DEMO = "demo"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living() as live:
        yield live


@pytest.fixture(scope="module")
def demo() -> Iterator[elm_mlx.LanguageModel]:
    with elm_mlx.load() as lm:
        yield lm


class House(NamedTuple):
    """A server with two models: the demo, which completes, and a tiny Llama of random weights, which chats and may call
    tools. What the latter says means nothing, but it has the form that is asked for."""

    served: Served
    chat: str
    demo: str = DEMO


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny Llama."""
    return scripts.write(tmp_path_factory.mktemp("served") / "tiny-llama", chat_templates.LLAMA_31)


@pytest.fixture(scope="session")
def house(llama: Path) -> Iterator[House]:
    with serving("--model", llama, "--model", DEMO, "--concurrency", 4) as served:
        yield House(served, "tiny-llama")
