"""Prompts equal transformers', id for id, on random model directories: files that agree or do not, random templates,
random conversations. A difference names its seed: `differential.replay(seed)` shows it."""

from __future__ import annotations

import sys
from pathlib import Path
from random import SystemRandom

import pytest

pytestmark = pytest.mark.parity
pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))
import differential

PART = 25  # directories of one test, with eight cases each


def compare(seeds: range) -> None:
    found = [(seed, difference) for seed in seeds for difference in differential.cases(seed)]
    differing = [f"seed {seed}: {difference}" for seed, difference in found if difference]
    assert not differing, f"{len(differing)} of {len(found)} cases differ. {differing[0]}"
    assert len(found) > len(seeds) * 7, "transformers refuses too many of these directories"


@pytest.mark.parametrize("first", range(0, 250, PART))
def test_prompts_are_transformers(first: int) -> None:
    compare(range(first, first + PART))


@pytest.mark.soak
def test_prompts_are_transformers_on_directories_nobody_has_seen() -> None:
    first = SystemRandom().randrange(1 << 40)
    print(f"seeds from {first}")
    compare(range(first, first + 2000))
