"""Blocks are dealt so that the rank with most bytes has as few as can be."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints

from elm_mlx.config import ModelConfig, config_from_dict
from elm_mlx.distributed.part import PIPELINE, Part
from elm_mlx.distributed.stages import pipeline_share, stages_of
from elm_mlx.errors import Unsupported


def of(layers: int, **changes: Any) -> ModelConfig:
    return config_from_dict(checkpoints.LLAMA | {"num_hidden_layers": layers} | changes)


def most_bytes(stages: list[range], sizes: list[int], ends: int) -> int:
    return max(sum(sizes[n] for n in stage) + (0 if rank else ends) for rank, stage in enumerate(stages))


def every_deal(sizes: list[int], ranks: int) -> list[list[range]]:
    """Every way to deal blocks, the last ones to rank 0."""
    cuts = ((0, *inner, len(sizes)) for inner in combinations(range(1, len(sizes)), ranks - 1))
    return [[range(first, end) for first, end in reversed([*pairwise(cut)])] for cut in cuts]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_deal_has_fewer_bytes_on_the_fullest_rank(seed: int) -> None:
    random = np.random.RandomState(seed)
    sizes = random.randint(1, 30, random.randint(1, 9)).tolist()
    ends, ranks = int(random.randint(0, 60)), int(random.randint(1, len(sizes) + 1))
    stages = stages_of(of(len(sizes)), sizes, ends, ranks)
    assert stages in every_deal(sizes, ranks)
    assert most_bytes(stages, sizes, ends) == min(most_bytes(deal, sizes, ends) for deal in every_deal(sizes, ranks))


def test_what_rank_0_has_too_much_of_is_no_reason_for_others_to_differ() -> None:
    assert stages_of(of(9), [1] * 9, 100, 3) == [range(8, 9), range(4, 8), range(4)]


@pytest.mark.parametrize("ranks", [0, 4])
def test_numbers_of_ranks_that_cannot_be_are_refused(ranks: int) -> None:
    with pytest.raises(Unsupported, match=f"has 3 blocks of weights, .* here are {ranks}. Take"):
        stages_of(of(3), [1, 1, 1], 1, ranks)


def test_a_rank_of_an_openelm_has_its_own_widths_alone() -> None:
    config = config_from_dict(checkpoints.OPENELM)
    shares = [pipeline_share(config, Part(PIPELINE, rank, 2), sizes_of(config)) for rank in range(2)]
    first, second = reversed(shares)  # the last rank has the first blocks
    assert [*first.blocks, *second.blocks] == [*range(config.num_blocks)]
    for name in ("num_heads", "num_kv_heads", "ffn_dims", "ffn_multipliers"):
        assert getattr(first.held, name) + getattr(second.held, name) == getattr(config, name)
    assert len(first.blocks) > len(second.blocks), "later layers are larger, and rank 0 has the embedding"
    assert sum(share.held.kv_bytes_per_token() for share in shares) == config.kv_bytes_per_token()


def test_a_block_that_runs_twice_is_on_one_rank_with_both_caches() -> None:
    config = of(4, model_type="mobilellm", layer_sharing=True)
    shares = [pipeline_share(config, Part(PIPELINE, rank, 2), sizes_of(config)) for rank in range(2)]
    assert sum(share.held.num_layers for share in shares) == config.num_layers == 8
    assert all(share.held.num_layers == 2 * len(share.blocks) for share in shares)


def sizes_of(config: ModelConfig) -> dict[str, int]:
    """The bytes of each weight, where each takes one."""
    return {name: int(np.prod(shape)) for name, shape in config.weight_shapes().items()}
