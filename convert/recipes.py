"""Mixed recipes: more bits for the matrices whose rounding costs most, fewer for those whose rounding costs least.

Which matrices these are was measured, one kind and one layer at a time, on the demo and on a Llama trained as the demo
was (docs/quantization.md). Both families gave one result, so their rules differ only in names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import RECIPES, Quantization

FEWEST, MOST = 0, 2  # indices into a recipe's bits; a matrix that no rule names has the bits at index 1
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
    """The settings of a recipe for a model: its middle bits, and by name each matrix that differs.

    A matrix that is not quantized, since no group divides its rows, is not named: mlx-lm expects every matrix that is
    named to be quantized.
    """
    bits = RECIPES[recipe]
    base = Quantization(bits[1])
    levels = {name: level(name, config) for name, shape in config.weight_shapes().items() if base.of(name, shape)}
    return replace(base, overrides={
        name.removesuffix(".weight"): replace(base, bits=bits[where]) for name, where in levels.items() if where != 1
    })  # fmt: skip


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
