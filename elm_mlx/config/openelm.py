"""OpenELM's configuration. Every layer has its own widths, which are derived from a few multipliers.

Source: apple/corenet modeling/models/language_modeling/general_gpt.py and the model cards' config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from elm_mlx.config.base import HEAD_NAME, ModelConfig, Shape, check_heads
from elm_mlx.config.quantization import read_quantization
from elm_mlx.config.rope import RopeConfig
from elm_mlx.config.values import MAX_LAYERS, MAX_MULTIPLIER, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Values


@dataclass(frozen=True, kw_only=True)
class OpenELMConfig(ModelConfig):
    """OpenELM: layer-wise scaled widths, fused qkv, normalised queries and keys."""

    family: ClassVar[str] = "openelm"
    embedding_name: ClassVar[str] = "transformer.token_embeddings.weight"
    normalize_qk: bool
    ffn_multipliers: tuple[float, ...]
    ffn_dim_divisor: int

    @classmethod
    def from_values(cls, values: Values) -> OpenELMConfig:
        """Reads a config.json and derives the widths of each layer. Raises BadCheckpoint for impossible values, and
        Unsupported, with the name of what elm-mlx does not run."""
        refuse_other_kinds(values)
        layers = values.integer("num_transformer_layers", 12, MAX_LAYERS)
        model_dim = values.integer("model_dim", 2048, MAX_WIDTH)
        head_dim = values.integer("head_dim", 128, MAX_WIDTH)
        heads, kv_heads = head_counts(values, layers, model_dim, head_dim)
        check_heads(values, head_dim, heads, kv_heads)
        divisor = values.integer("ffn_dim_divisor", 256, MAX_WIDTH)
        multipliers = per_layer(values, "ffn_multipliers", 4.0, layers)
        widths = [make_divisible(m * model_dim, divisor) for m in multipliers]
        bos = values.token_ids("bos_token_id", 1)
        return cls(
            vocab_size=values.integer("vocab_size", 32_000, MAX_VOCAB),
            model_dim=model_dim,
            head_dim=head_dim,
            num_heads=heads,
            num_kv_heads=kv_heads,
            ffn_dims=tuple(values.width(width, "ffn_multipliers") for width in widths),
            ffn_multipliers=tuple(multipliers),
            ffn_dim_divisor=divisor,
            norm_eps=1e-6,  # the original hard-codes it
            rope=RopeConfig(values.positive("rope_freq_constant", 10_000.0)),
            context_length=values.integer("max_context_length", 2048, MAX_POSITIONS),
            tied=values.flag("share_input_output_layers", False),
            normalize_qk=values.flag("normalize_qk_projections", False),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=values.token_ids("eos_token_id", 2),
            quantization=read_quantization(values),
        )

    def is_redundant(self, name: str) -> bool:
        """Whether a checkpoint may hold the tensor `name` though no model reads it: RoPE tables, a tied head, and the
        classifier that an untied model creates and never uses."""
        return super().is_redundant(name) or (name == "transformer.classifier.weight" and not self.tied)

    def to_dict(self) -> dict[str, Any]:
        """The keys of config.json that describe the model: lists with an entry for each layer, defaults included."""
        return {
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "model_dim": self.model_dim,
            "head_dim": self.head_dim,
            "num_transformer_layers": self.num_layers,
            "num_query_heads": list(self.num_heads),
            "num_kv_heads": list(self.num_kv_heads),
            "ffn_multipliers": list(self.ffn_multipliers),
            "ffn_dim_divisor": self.ffn_dim_divisor,
            "rope_freq_constant": self.rope.theta,
            "max_context_length": self.context_length,
            "share_input_output_layers": self.tied,
            "normalize_qk_projections": self.normalize_qk,
        }

    def weight_shapes(self) -> dict[str, Shape]:
        """Every tensor of an unquantized checkpoint by its Hugging Face name, with its shape (out, in)."""
        E, D, V = self.model_dim, self.head_dim, self.vocab_size
        shapes: dict[str, Shape] = {self.embedding_name: (V, E)}
        for i, (H, K, F) in enumerate(zip(self.num_heads, self.num_kv_heads, self.ffn_dims, strict=True)):
            layer: dict[str, Shape] = {"attn.qkv_proj": ((H + 2 * K) * D, E), "attn.out_proj": (E, H * D)}
            if self.normalize_qk:
                layer |= {"attn.q_norm": (D,), "attn.k_norm": (D,)}
            layer |= {"ffn.proj_1": (2 * F, E), "ffn.proj_2": (E, F), "attn_norm": (E,), "ffn_norm": (E,)}
            shapes |= {f"transformer.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes["transformer.norm.weight"] = (E,)
        return shapes if self.tied else shapes | {HEAD_NAME: (V, E)}


def refuse_other_kinds(values: Values) -> None:
    """Raises Unsupported for settings that OpenELM's code has and no published OpenELM uses."""
    values.require("activation_fn_name", ["swish", "silu"])
    values.require("normalization_layer_name", ["rms_norm"])
    values.require("ffn_with_glu", [True])
    for key in ("rope_scaling", "rope_parameters", "rope_theta"):
        values.require(key, ["no scaling"])  # OpenELM knows rope_freq_constant alone


def head_counts(values: Values, layers: int, model_dim: int, head_dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(query heads, key/value heads) of each layer, from the multipliers or the stored lists, which must agree."""
    groups = values.integer("num_gqa_groups", 1, MAX_WIDTH)
    stored = whole_list(values, "num_query_heads", layers), whole_list(values, "num_kv_heads", layers)
    if values.get("qkv_multipliers") is None and stored[0] and stored[1]:
        return stored[0], stored[1]
    multipliers = per_layer(values, "qkv_multipliers", 1.0, layers)
    widths = [make_divisible(m * model_dim, head_dim * groups) for m in multipliers]
    heads = tuple(values.width(width // head_dim, "qkv_multipliers") for width in widths)
    derived = heads, tuple(h // groups for h in heads)
    for key, listed, computed in zip(("num_query_heads", "num_kv_heads"), stored, derived, strict=True):
        if listed is not None and listed != computed:
            raise values.wrong(f"{key} {list(listed)} disagrees with qkv_multipliers, which give {list(computed)}.")
    return derived


def make_divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, one more where rounding would lose over a tenth.

    Source: apple/corenet, corenet/utils/math_utils.py.
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def per_layer(values: Values, key: str, default: float, layers: int) -> list[float]:
    """One multiplier for each layer, from a number, a [first, last] pair (linear, to two decimals) or the full list."""
    value = values.get(key, default)
    listed = value if isinstance(value, list) else [value]
    if not listed or None in listed:
        raise values.wrong(f"{key} is {value!r}, where one multiplier or a list of them belongs.")
    numbers = [Values({key: item}, values.where).positive(key, default, MAX_MULTIPLIER) for item in listed]
    if len(numbers) == 1:
        return numbers * layers
    if len(numbers) == layers:
        return numbers
    if len(numbers) != 2:
        raise values.wrong(f"{key} has {len(numbers)} entries for {layers} layers.", f"Give 1, 2 or {layers}.")
    first, last = numbers
    return [round(first + (last - first) * i / max(layers - 1, 1), 2) for i in range(layers)]


def whole_list(values: Values, key: str, layers: int) -> tuple[int, ...] | None:
    """The list under `key`, one whole number for each layer, or None where there is none."""
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != layers or None in value:
        raise values.wrong(f"{key} needs a list of {layers} whole numbers, one a layer.")
    return tuple(Values({key: item}, values.where).integer(key, 0, MAX_WIDTH) for item in value)
