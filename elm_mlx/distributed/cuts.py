"""Which rows or columns of each tensor a rank holds where every layer is shared by all ranks, as data.

Rows of what comes before attention and before the gate, columns of what comes after: so heads stay whole, and a layer
needs two sums over the ranks. Embedding and head are cut by rows of the vocabulary.
Source: Shoeybi et al. 2019, "Megatron-LM", section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from elm_mlx.config.base import HEAD_NAME, ModelConfig, Shape
from elm_mlx.config.llama import LlamaConfig
from elm_mlx.distributed.part import Cut, Part, Share, everything
from elm_mlx.errors import Unsupported

BY_ROWS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight")
BY_COLUMNS = ("o_proj.weight", "down_proj.weight")
ROWS_TOGETHER = 8  # of the vocabulary: MLX's fast kernel for a row of activations takes so many of a matrix at once
MOST_RANKS, MOST_COUNTS = 1024, 8  # that are looked at for a refusal, and that it lists


def tensor_share(config: ModelConfig, part: Part) -> Share:
    """What a rank holds where all layers are shared. Raises Unsupported as `check_tensor`."""
    check_tensor(config, part.ranks)
    cuts = {name: cut_of(config, name, shape, part) for name, shape in config.weight_shapes().items()}
    return Share(part, config, tensor_config(config, part.ranks), range(config.num_blocks), cuts)


def cut_of(config: ModelConfig, name: str, shape: Shape, part: Part) -> Cut:
    """What a rank holds of one weight."""
    if name in (config.embedding_name, HEAD_NAME):
        return vocabulary_cut(shape[0], part)
    if name.endswith(BY_ROWS):
        return even_cut(0, shape[0], part)
    return even_cut(1, shape[1], part) if name.endswith(BY_COLUMNS) else everything(shape)


def even_cut(axis: int, length: int, part: Part) -> Cut:
    """The rank's share of an axis that the ranks divide."""
    share = length // part.ranks
    return Cut(axis, part.rank * share, (part.rank + 1) * share)


def vocabulary_cut(vocabulary: int, part: Part) -> Cut:
    """The rank's rows of an embedding or a head. All ranks but the last ones have `vocabulary_width` of them."""
    width = vocabulary_width(vocabulary, part.ranks)
    return Cut(0, min(part.rank * width, vocabulary), min((part.rank + 1) * width, vocabulary))


def vocabulary_width(vocabulary: int, ranks: int) -> int:
    """The most rows of an embedding that a rank has."""
    return vocabulary if ranks == 1 else -(-vocabulary // (ranks * ROWS_TOGETHER)) * ROWS_TOGETHER


def tensor_config(config: ModelConfig, ranks: int) -> ModelConfig:
    """The configuration of what each rank holds of every layer. Its vocabulary is the whole one: logits are whole."""

    def share(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(width // ranks for width in widths)

    heads, kv_heads = share(config.num_heads), share(config.num_kv_heads)
    return replace(config, num_heads=heads, num_kv_heads=kv_heads, ffn_dims=share(config.ffn_dims))


def check_tensor(config: ModelConfig, ranks: int) -> None:
    """Raises Unsupported where so many ranks cannot share every layer of a model, with the counts that can."""
    if type(config) is not LlamaConfig:
        raise Unsupported(f"Machines cannot share each layer of a model of the kind {config.label}: that is for models "
                          "of Llama's shape, whose layers have equal heads and no norm over all of them. But whole "
                          "layers can be dealt to them.", "Give {parallel=pipeline}.")  # fmt: skip
    if why := next(obstacles(config, ranks), None):
        counts = [str(count) for count in islice(tensor_counts(config), MOST_COUNTS)]
        can = f" {' or '.join(filter(None, (', '.join(counts[:-1]), counts[-1])))} can." if counts else ""
        raise Unsupported(f"{ranks} machines cannot share each layer of this model: {why}.{can} Whole layers can be "
                          f"dealt to up to {config.num_blocks}.", "Give {parallel=pipeline} for that.")  # fmt: skip


def tensor_counts(config: LlamaConfig) -> Iterator[int]:
    """The numbers of ranks above 1 that can share every layer of a model, in order."""
    return (n for n in range(2, min(MOST_RANKS, *config.num_kv_heads) + 1) if next(obstacles(config, n), None) is None)


def obstacles(config: LlamaConfig, ranks: int) -> Iterator[str]:
    """What keeps so many ranks from sharing every layer, in words."""
    for name, widths in (
        ("key/value heads", config.num_kv_heads),
        ("query heads", config.num_heads),
        ("columns of a feed-forward", config.ffn_dims),
    ):
        yield from (f"its {width} {name} do not divide by {ranks}" for width in {*widths} if width % ranks)
    if (ranks - 1) * vocabulary_width(config.vocab_size, ranks) >= config.vocab_size:
        yield f"its vocabulary of {config.vocab_size} would leave some of them without a token"
    yield from split_groups(config, ranks)


def split_groups(config: LlamaConfig, ranks: int) -> Iterator[str]:
    """The quantized matrices whose groups of columns would be cut through, in words."""
    if config.quantization is None:
        return
    for name, shape in config.weight_shapes().items():
        setting = config.quantization.of(name, shape) if name.endswith(BY_COLUMNS) else None
        if setting and shape[1] // ranks % setting.group_size:
            yield (f"{name.removesuffix('.weight')} has {shape[1]} columns in groups of {setting.group_size}, which do "
                   f"not fill {ranks} equal parts")  # fmt: skip
