"""Mixed recipes: more bits for the matrices whose rounding costs most, fewer for those whose rounding costs least.

Which matrices these are was measured, one kind and one layer at a time, on the demo and on a Llama trained as the demo
was (docs/quantization.md). Both families gave one result, so their rules differ only in names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import mlx.core as mx

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import RECIPES, Quantization
from elm_mlx.errors import InvalidRequest
from elm_mlx.store.stored_form import stored_entries

FEWEST, MIDDLE, MOST = range(3)  # indices into a recipe's bits; a matrix that no rule names has the middle ones
LADDER = (*RECIPES.values(), (5, 6, 8), (6, 8, 8), (8, 8, 8))  # bits of models of growing size
TURNS = (FEWEST, MOST, MIDDLE)  # whose matrices come first to the next bits of the ladder
EDGE = 8  # the first layers are a model's first eighth, the last ones its last eighth; each at least one layer


@dataclass(frozen=True)
class Rule:
    """The bits, by index, of the matrices with `pattern` in their name; only in the `layers` named, if any are."""

    level: int
    pattern: str
    layers: str | None = None


BITS_RULES: dict[str, tuple[Rule, ...]] = {  # the first rule that fits decides
    "openelm": (
        Rule(MOST, r"lm_head|token_embeddings"),  # where tied, they lose more than all layers together
        Rule(MOST, r"attn\.|ffn\.", "first"),  # all later layers build on them, and layer-wise scaling keeps them small
        Rule(MOST, r"attn\.|proj_2", "last"),  # no later layer corrects what these lose
        Rule(FEWEST, r"proj_1", "middle"),  # nearly half of all weights, and for their number the least sensitive
    ),
    "llama": (
        Rule(MOST, r"lm_head|embed_tokens"),
        Rule(MOST, r"self_attn|mlp", "first"),
        Rule(MOST, r"self_attn|down_proj", "last"),  # q, k and v have equal bits, or they could not be one product
        Rule(FEWEST, r"gate_proj|up_proj", "middle"),
    ),
}
BITS_RULES["bitnet"] = BITS_RULES["llama"]


def quantization(recipe: str, config: ModelConfig) -> Quantization:
    """The settings of a recipe for a model."""
    return mixed({name: RECIPES[recipe][where] for name, where in levels(config).items()})


def quantization_of_size(target_bits: float, config: ModelConfig, dtype: mx.Dtype) -> Quantization:
    """The settings for a model that has at most `target_bits` bits per weight, floats in `dtype`: those of the largest
    recipe that fits, and of the next one for as many matrices as there is room for.

    Raises InvalidRequest where not even the smallest recipe fits.
    """
    where = levels(config)
    rungs = [{name: bits[at] for name, at in where.items()} for bits in LADDER]
    sizes = [bits_per_weight(mixed(rung), config, dtype) for rung in rungs]
    if not sizes[0] <= target_bits:
        raise InvalidRequest(f"target_bits is {target_bits:g}, and this model has at least {sizes[0]:.2f} bits per "
                             "weight.", "Give more {target_bits}; {bits=2} takes less, and loses much.")  # fmt: skip
    reached = max(i for i, size in enumerate(sizes) if size <= target_bits)
    bits, more = rungs[reached], rungs[min(reached + 1, len(rungs) - 1)]
    room = (target_bits - sizes[reached]) * config.parameter_count
    shapes = config.weight_shapes()
    for names in sorted(products(where), key=lambda names: TURNS.index(where[names[0]])):
        takes = sum((more[name] - bits[name]) * prod(shapes[name]) for name in names)
        if takes <= room:
            room -= takes
            bits |= {name: more[name] for name in names}
    return mixed(bits)


def mixed(bits: Mapping[str, int]) -> Quantization:
    """Settings, groups of 64, from the bits of each matrix by name: what the most have, and by name each that
    differs."""
    counts = list(bits.values())
    plain = Quantization(max(set(counts), key=counts.count, default=Quantization.bits))
    own = {name.removesuffix(".weight"): replace(plain, bits=n) for name, n in bits.items() if n != plain.bits}
    return replace(plain, overrides=own)


def bits_per_weight(quantization: Quantization, config: ModelConfig, dtype: mx.Dtype) -> float:
    """Bits per parameter of a model that is stored with these settings, floats in `dtype`."""
    entries = stored_entries(replace(config, quantization=quantization), dtype, lambda _: True)
    return 8 * sum(entry.nbytes for entry in entries.values()) / config.parameter_count


def products(names: Mapping[str, int]) -> list[list[str]]:
    """Weights by name -> lists of those that are one product in a model, and must have equal bits: q, k and v, and gate
    and up."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(re.sub(r"\b[qkv]_proj", "qkv", re.sub(r"\b(gate|up)_proj", "gate_up", name)), []).append(name)
    return list(found.values())


def levels(config: ModelConfig) -> dict[str, int]:
    """The index into a recipe's bits for each weight that is quantized.

    A matrix whose rows no group divides is not named: mlx-lm expects every matrix that is named to be quantized.
    """
    return {
        name: level(name, config) for name, shape in config.weight_shapes().items() if Quantization().of(name, shape)
    }


def level(name: str, config: ModelConfig) -> int:
    """The index into a recipe's bits for a weight."""
    layers = layer_group(name, config.num_blocks)
    fitting = (rule for rule in BITS_RULES[config.family] if re.search(rule.pattern, name))
    return next((rule.level for rule in fitting if rule.layers in (None, layers)), 1)


def layer_group(name: str, count: int) -> str | None:
    """Whether a weight lies in the first, the middle or the last layers; None for a weight outside of all layers."""
    found = re.search(r"layers\.(\d+)\.", name)
    if not found:
        return None
    layer, edge = int(found[1]), max(1, count // EDGE)
    return "first" if layer < edge else "last" if layer >= count - edge else "middle"
