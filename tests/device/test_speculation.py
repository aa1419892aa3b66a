"""How many proposals a chip is asked to judge."""

from __future__ import annotations

import pytest

from elm_mlx.device.speculation import most_proposals


@pytest.mark.parametrize(
    ("chip", "queries", "most"),
    [
        ("Apple M1", 4, 1),
        ("Apple M1 Pro", 4, 1),
        ("Apple M2 Max", 4, 1),
        ("Apple M1 Ultra", 4, 4),
        ("Apple M2 Ultra", 3, 4),
        ("Apple M3 Max", 4, 4),
        ("Apple M4", 4, 4),
        ("Apple M10 Pro", 4, 4),  # not an M1
        ("Apple M4", 8, 3),
        ("Apple M4", 16, 1),
        ("Apple M4", 32, 0),
        ("AMD EPYC", 4, 6),
        ("", 1, 6),
    ],
)
def test_a_chip_is_asked_for_as_many_as_it_can_judge_in_its_fast_kernels(chip: str, queries: int, most: int) -> None:
    assert most_proposals(chip, queries) == most
