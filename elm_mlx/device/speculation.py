"""How many proposals a model can be asked to judge at once on this machine, by what its chip is known for.

The engine measures what a round costs (engine.gate); these are bounds beside that, where a number is hopeless by its
kind: a product of quantized weights with more rows reads the weights again, and attention leaves its fast kernel.
"""

from __future__ import annotations

import re

CHIP = re.compile(r"Apple M(\d+)(?: (Pro|Max|Ultra))?")
# (generation, whether it is an Ultra) -> proposals. On M1 and M2 a quantized product reads the weights once a row, and
# below the Ultra large matrices pay for 32 rows from the sixth on. Others read them once for up to five rows.
# Source: MLX's quantized.cpp (get_qmv_batch_limit) and reports of 2026 (ml-explore/mlx#3839, #3852, #3863).
BOUNDS = {(1, False): 1, (2, False): 1}
ON_A_CHIP = 4  # of any other Apple chip: five rows
ELSEWHERE = 6  # on other devices; chosen
SHORT_QUERIES = 8  # rows that Metal's attention for short queries takes, and of
SHORT_PRODUCT = 32  # rows times query heads for each key head. Source: MLX's scaled_dot_product_attention.cpp


def most_proposals(chip: str, queries: int) -> int:
    """The most proposals on a device of this name (MLX's device_name), for a model with `queries` query heads for each
    key head; 0 where no proposal can be judged in Metal's attention for short queries."""
    rows = min(SHORT_QUERIES, SHORT_PRODUCT // queries)
    return max(0, min(bound_of(chip), rows - 1))


def bound_of(chip: str) -> int:
    """The most proposals that a chip is asked to judge, by its name."""
    if not (found := CHIP.match(chip)):
        return ELSEWHERE
    generation, kind = int(found[1]), found[2]
    return BOUNDS.get((generation, kind == "Ultra"), ON_A_CHIP)


def device_name() -> str:
    """MLX's name of the device that it computes on, "" where it has none."""
    from elm_mlx.device.backend import mx

    return str(mx.device_info().get("device_name", ""))
