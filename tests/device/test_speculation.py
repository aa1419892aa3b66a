"""How many proposals a chip is asked to judge."""

from __future__ import annotations

import pytest

from elm_mlx.device.speculation import most_proposals


@pytest.mark.parametrize(
    ("chip", "queries", "most"),
    [
        ("M1", 4, 1),
        ("M1 Pro", 4, 1),
        ("M2 Max", 4, 1),
        ("M1 Ultra", 4, 4),
        ("M2 Ultra", 3, 4),
        ("M3 Max", 4, 4),
        ("M4", 4, 4),
        ("M10 Pro", 4, 4),  # not an M1
        ("M4", 8, 3),
        ("M4", 16, 1),
        ("M4", 32, 0),
        (None, 4, 6),
        (None, 1, 6),
    ],
)
def test_a_chip_is_asked_for_as_many_as_it_can_judge_in_its_fast_kernels(
    chip: str | None, queries: int, most: int
) -> None:
    assert most_proposals(chip, queries) == most
