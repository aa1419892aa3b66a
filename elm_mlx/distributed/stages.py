"""Which blocks each rank holds where whole blocks are dealt to the ranks, as data.

Rank 0 has what is before the first block and after the last one, and the last blocks: so it has the logits, and one
matrix that is embedding and head. The last rank has the first blocks. States go from rank 0 to the last rank, and down
from rank to rank until they are back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import accumulate, chain, takewhile

from elm_mlx.config.base import ModelConfig
from elm_mlx.config.llama import SHARED_FFN
from elm_mlx.distributed.part import Part, Share, everything
from elm_mlx.errors import Unsupported

OF_EACH_BLOCK = ("num_heads", "num_kv_heads", "ffn_dims", "ffn_multipliers")  # values of a configuration, an entry each


def pipeline_share(config: ModelConfig, part: Part, sizes: Mapping[str, int]) -> Share:
    """What a rank holds where whole blocks are dealt, by the bytes of each weight as it is stored, `sizes`. Raises
    Unsupported as `stages_of`."""
    blocks, shared, ends = weights_by_block(config)
    block_bytes = [sum(sizes[name] for name in block) for block in blocks]
    own = stages_of(config, block_bytes, sum(sizes[name] for name in ends), part.ranks)[part.rank]
    names = [*shared, *chain.from_iterable(blocks[number] for number in own), *([] if part.rank else ends)]
    shapes = config.weight_shapes()
    cuts = {name: everything(shapes[name]) for name in names}
    return Share(part, config, stage_config(config, own), own, cuts)


def stage_config(config: ModelConfig, blocks: range) -> ModelConfig:
    """The configuration of some blocks of a model."""
    names = [field.name for field in fields(config) if field.name in OF_EACH_BLOCK]
    return replace(config, **{name: getattr(config, name)[blocks.start : blocks.stop] for name in names})


def weights_by_block(config: ModelConfig) -> tuple[list[list[str]], list[str], list[str]]:
    """The names of the weights: those of each block, those that all blocks use (MobiLlama's one feed-forward), so that
    every rank holds them, and those before the first block and after the last one."""
    blocks: list[list[str]] = [[] for _ in range(config.num_blocks)]
    shared: list[str] = []
    ends: list[str] = []
    for name in config.weight_shapes():
        if number := re.search(r"\.layers\.(\d+)\.", name):
            blocks[int(number[1])].append(name)
        else:
            (shared if name.startswith(SHARED_FFN) else ends).append(name)
    return blocks, shared, ends


def stages_of(config: ModelConfig, block_bytes: Sequence[int], ends_bytes: int, ranks: int) -> list[range]:
    """The blocks of each rank, so that the rank with most bytes has as few as possible, and then those after it;
    `ends_bytes` are those of embedding, norm and head, which are rank 0's. Raises Unsupported for more ranks than
    blocks."""
    if not 1 <= ranks <= config.num_blocks:
        raise Unsupported(f"The model has {config.num_blocks} blocks of weights, so up to that many machines can have "
                          f"some of them, and here are {ranks}. Take fewer.")  # fmt: skip
    stages, left = [], config.num_blocks
    for rank in range(ranks):
        sizes = [*block_bytes[:left]][::-1]  # in the order of ranks
        sizes[0] += 0 if rank else ends_bytes
        count = dealt(sizes, ranks - rank, least_limit(sizes, ranks - rank))[0]
        stages.append(range(left - count, left))
        left -= count
    return stages


def least_limit(sizes: Sequence[int], ranks: int) -> int:
    """The fewest bytes that each rank must be able to have, for blocks of these bytes in this order."""
    lowest, highest = max(sizes), sum(sizes)
    while lowest < highest:
        limit = (lowest + highest) // 2
        if sum(dealt(sizes, ranks, limit)) == len(sizes):
            highest = limit
        else:
            lowest = limit + 1
    return highest


def dealt(sizes: Sequence[int], ranks: int, limit: int) -> list[int]:
    """How many blocks of these bytes each rank gets, where each takes as many as fit in `limit` bytes, at least one,
    and leaves one for each rank after it."""
    counts, done = [], 0
    for rank in range(ranks):
        most = len(sizes) - done - (ranks - rank - 1)
        totals = accumulate(sizes[done : done + most])
        counts.append(max(1, sum(1 for _ in takewhile(lambda total: total <= limit, totals))))
        done += counts[-1]
    return counts
