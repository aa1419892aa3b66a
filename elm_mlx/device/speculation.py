"""How many proposals a model can be asked to judge at once on this machine, by what its chip is known for.

The engine measures what a round costs (engine.gate); these are bounds beside that, where a number is hopeless by its
kind: a product of quantized weights with more rows reads the weights again, and attention leaves its fast kernel.
"""

from __future__ import annotations

# Chips on which a quantized product reads the weights once a row, and large matrices pay for 32 rows from the sixth on.
# Others, their Ultras too, read them once for up to five rows.
# Source: MLX's quantized.cpp (get_qmv_batch_limit) and reports of 2026 (ml-explore/mlx#3839, #3852, #3863).
ROW_BY_ROW = ("M1", "M1 Pro", "M1 Max", "M2", "M2 Pro", "M2 Max")
ON_THESE, ON_A_CHIP = 1, 4  # proposals: two rows, and on any other chip five
ELSEWHERE = 6  # on other devices; chosen
SHORT_QUERIES = 8  # rows that Metal's attention for short queries takes, and of
SHORT_PRODUCT = 32  # rows times query heads for each key head. Source: MLX's scaled_dot_product_attention.cpp


def most_proposals(chip: str | None, queries: int) -> int:
    """The most proposals on a chip, None without Metal (`chips.chip_here`), for a model with `queries` query heads for
    each key head; 0 where no proposal can be judged in Metal's attention for short queries."""
    rows = min(SHORT_QUERIES, SHORT_PRODUCT // queries)
    return max(0, min(bound_of(chip), rows - 1))


def bound_of(chip: str | None) -> int:
    """The most proposals that a chip is asked to judge, by its name."""
    if chip is None:
        return ELSEWHERE
    return ON_THESE if chip in ROW_BY_ROW else ON_A_CHIP
