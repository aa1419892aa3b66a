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

CHATS = 8  # conversations with each directory
PARTS = 25  # directories of one test


def compare(seeds: range) -> None:
    cases, found = 0, []
    for seed in seeds:
        with differential.comparison(seed) as pair:
            for difference in pair.differences(CHATS):
                cases += 1
                found += [difference] if difference else []
    assert not found, f"{len(found)} of {cases} cases differ; the first: {found[0]}"
    assert cases >= len(seeds) * CHATS * 9 // 10, "transformers refuses too many of these directories"


@pytest.mark.parametrize("part", range(10))
def test_prompts_are_transformers(part: int) -> None:
    compare(range(part * PARTS, (part + 1) * PARTS))


@pytest.mark.soak
def test_prompts_are_transformers_on_directories_nobody_has_seen() -> None:
    first = SystemRandom().randrange(1 << 40)
    print(f"seeds from {first}")
    compare(range(first, first + 2000))
