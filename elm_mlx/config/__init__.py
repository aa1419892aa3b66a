"""What a model is: frozen configurations that derive everything once from a checkpoint's config.json.

A configuration also says which tensors a checkpoint holds (`weight_shapes`). Loading, conversion and the
parameter counts all read that one list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from elm_mlx.config.quantization import Quantization, read_quantization
from elm_mlx.config.values import (
    MAX_LAYERS,
    MAX_MULTIPLIER,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    bounded,
    choice,
    flag,
    given,
    integer,
    mapping,
    positive,
    token_ids,
)
from elm_mlx.errors import BadCheckpoint, Unsupported, unsupported

Shape = tuple[int, ...]
MISTRAL_WINDOW = 4096  # positions, by transformers' MistralConfig, where sliding_window is not named
HEAD = "lm_head.weight"  # the rows of the output, where they are not the embedding's


@dataclass(frozen=True)
class Rope:
    """Rotary positions: base `theta`, and how the frequencies are scaled (`kind` default, linear or llama3)."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    KINDS: ClassVar[tuple[str, ...]] = ("default", "linear", "llama3")
    KEYS: ClassVar[tuple[str, ...]] = (
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"),
        *("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    )

    UNSCALED: ClassVar[frozenset[str]] = frozenset({"rope_theta", "partial_rotary_factor"})  # these name no scaling

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Rope:
        """Reads `rope_theta` + `rope_scaling`, or transformers 5's `rope_parameters`; what is said twice must agree.

        Raises Unsupported for a kind or a parameter that we do not run.
        """
        scalings = [mapping(raw, "rope_scaling"), mapping(raw, "rope_parameters")]
        for place in (raw, *scalings):
            choice(place, "partial_rotary_factor", [1.0])
        for key, value in (item for scaling in scalings for item in scaling.items()):
            if key not in cls.KEYS and value is not None:
                raise unsupported("config.json: RoPE parameter", key, cls.KEYS)
        theta = cls._theta(raw, *scalings)
        readings = {cls._scaled(theta, scaling) for scaling in scalings if set(scaling) - cls.UNSCALED}
        if len(readings) > 1:
            raise BadCheckpoint("config.json: rope_scaling and rope_parameters disagree. Keep the right one.")
        return readings.pop() if readings else cls(theta)

    @staticmethod
    def _theta(*places: Mapping[str, Any]) -> float:
        """The base, wherever it is named; two different ones are refused."""
        bases = {positive(place, "rope_theta", 10_000.0) for place in places if place.get("rope_theta") is not None}
        if len(bases) > 1:
            raise BadCheckpoint(f"config.json names two RoPE bases, {' and '.join(map(str, sorted(bases)))}. "
                                "Keep the one that the model was trained with.")  # fmt: skip
        return bases.pop() if bases else 10_000.0

    @classmethod
    def _scaled(cls, theta: float, scaling: Mapping[str, Any]) -> Rope:
        kind = cls._kind([scaling[key] for key in ("rope_type", "type") if scaling.get(key) is not None])
        if kind == "default":
            return cls(theta)
        if scaling.get("factor") is None:
            raise BadCheckpoint(f"config.json: {kind} RoPE scaling has no factor. Take config.json from the source.")
        factor = positive(scaling, "factor", 1.0, MAX_MULTIPLIER)
        return cls(theta, kind, factor) if kind == "linear" else cls._llama3(theta, factor, scaling)

    @classmethod
    def _kind(cls, named: list[Any]) -> str:
        """The one kind that a scaling names; "type" is an alias of "rope_type"."""
        if not named or any(kind != named[0] for kind in named):
            raise BadCheckpoint(f"config.json: RoPE scaling names {len(named)} kinds in rope_type and type, not one.")
        if named[0] not in cls.KINDS:
            raise unsupported("config.json: RoPE scaling", named[0], cls.KINDS)
        return str(named[0])

    @classmethod
    def _llama3(cls, theta: float, factor: float, scaling: Mapping[str, Any]) -> Rope:
        low = positive(scaling, "low_freq_factor", 1.0, MAX_MULTIPLIER)
        high = positive(scaling, "high_freq_factor", 4.0, MAX_MULTIPLIER)
        if low >= high:
            raise BadCheckpoint(f"config.json: low_freq_factor {low} is not below high_freq_factor {high}.")
        original = integer(scaling, "original_max_position_embeddings", 8192, MAX_POSITIONS)
        return cls(theta, "llama3", factor, low, high, original)

    def to_dict(self) -> dict[str, Any]:
        """The scaling as `rope_scaling` holds it; empty for plain RoPE."""
        if self.kind == "default":
            return {}
        plain = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "linear":
            return plain
        return plain | {
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original_context,
        }


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """What both families share. E model width, H query heads, K key/value heads, D head width, F FFN width,
    V vocabulary; H, K and F are given per layer."""

    family: ClassVar[str]
    embedding_name: ClassVar[str]
    vocab_size: int
    model_dim: int
    head_dim: int
    num_heads: tuple[int, ...]
    num_kv_heads: tuple[int, ...]
    ffn_dims: tuple[int, ...]
    norm_eps: float
    rope: Rope
    context_length: int
    tied: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    quantization: Quantization | None

    @property
    def num_layers(self) -> int:
        """How many transformer layers there are."""
        return len(self.num_heads)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The keys of config.json that describe the model, no default left out."""

    @abstractmethod
    def weight_shapes(self) -> dict[str, Shape]:
        """Every tensor of an unquantized checkpoint by its Hugging Face name, with its shape (out, in)."""

    def is_redundant(self, name: str) -> bool:
        """Whether a checkpoint may carry this tensor though nothing reads it: RoPE tables, a tied head's copy of
        the embedding."""
        return name.endswith("rotary_emb.inv_freq") or (name == HEAD and self.tied)

    def __post_init__(self) -> None:
        if self.head_dim % 2:
            raise BadCheckpoint(f"config.json: head_dim is {self.head_dim}; RoPE rotates pairs and needs it even.")
        for layer, (heads, kv_heads) in enumerate(zip(self.num_heads, self.num_kv_heads, strict=True)):
            if heads % kv_heads:
                raise BadCheckpoint(f"config.json: layer {layer} has {heads} query heads, which {kv_heads} "
                                    "key/value heads cannot share evenly.")  # fmt: skip


def _make_divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, one more where rounding would lose over a tenth.

    Source: apple/corenet, corenet/utils/math_utils.py.
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


def _per_layer(raw: Mapping[str, Any], key: str, default: float, layers: int) -> list[float]:
    """One multiplier a layer, from a number, a [first, last] pair (linear, to two decimals) or the full list."""
    value = given(raw, key, default)
    values = value if isinstance(value, list) else [value]
    if not values or None in values:
        raise BadCheckpoint(f"config.json: {key} is {value!r}, where one multiplier or a list of them belongs.")
    numbers = [positive({key: item}, key, default, MAX_MULTIPLIER) for item in values]
    if len(numbers) == 1:
        return numbers * layers
    if len(numbers) == layers:
        return numbers
    if len(numbers) != 2:
        raise BadCheckpoint(f"config.json: {key} has {len(numbers)} entries for {layers} layers; give 1 or 2.")
    first, last = numbers
    return [round(first + (last - first) * i / max(layers - 1, 1), 2) for i in range(layers)]


def _whole_list(raw: Mapping[str, Any], key: str, layers: int) -> tuple[int, ...] | None:
    """The stored list of one whole number a layer, or None."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != layers or None in value:
        raise BadCheckpoint(f"config.json: {key} needs a list of {layers} whole numbers, one a layer.")
    return tuple(integer({key: item}, key, 0, MAX_WIDTH) for item in value)


@dataclass(frozen=True, kw_only=True)
class OpenELMConfig(ModelConfig):
    """OpenELM: layer-wise scaled widths, fused qkv, normalised queries and keys.

    Source: apple/corenet modeling/models/language_modeling/general_gpt.py and the model cards' config.json.
    """

    family: ClassVar[str] = "openelm"
    embedding_name: ClassVar[str] = "transformer.token_embeddings.weight"
    normalize_qk: bool
    ffn_multipliers: tuple[float, ...]
    ffn_dim_divisor: int

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> OpenELMConfig:
        """Derives the per-layer widths; raises BadCheckpoint for values that cannot be, Unsupported by name."""
        choice(raw, "activation_fn_name", ["swish", "silu"])
        choice(raw, "normalization_layer_name", ["rms_norm"])
        choice(raw, "ffn_with_glu", [True])
        for key in ("rope_scaling", "rope_parameters", "rope_theta"):
            choice(raw, key, ["no scaling"])  # OpenELM knows rope_freq_constant alone
        layers = integer(raw, "num_transformer_layers", 12, MAX_LAYERS)
        model_dim = integer(raw, "model_dim", 2048, MAX_WIDTH)
        head_dim = integer(raw, "head_dim", 128, MAX_WIDTH)
        heads, kv_heads = cls._heads(raw, layers, model_dim, head_dim)
        divisor = integer(raw, "ffn_dim_divisor", 256, MAX_WIDTH)
        multipliers = _per_layer(raw, "ffn_multipliers", 4.0, layers)
        bos = token_ids(raw.get("bos_token_id", 1), "config.json: bos_token_id")
        return cls(
            vocab_size=integer(raw, "vocab_size", 32_000, MAX_VOCAB),
            model_dim=model_dim,
            head_dim=head_dim,
            num_heads=heads,
            num_kv_heads=kv_heads,
            ffn_dims=tuple(bounded(_make_divisible(m * model_dim, divisor), "ffn_multipliers") for m in multipliers),
            ffn_multipliers=tuple(multipliers),
            ffn_dim_divisor=divisor,
            norm_eps=1e-6,  # the original hard-codes it
            rope=Rope(positive(raw, "rope_freq_constant", 10_000.0)),
            context_length=integer(raw, "max_context_length", 2048, MAX_POSITIONS),
            tied=flag(raw, "share_input_output_layers", False),
            normalize_qk=flag(raw, "normalize_qk_projections", False),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=token_ids(raw.get("eos_token_id", 2), "config.json: eos_token_id"),
            quantization=read_quantization(raw),
        )

    def is_redundant(self, name: str) -> bool:
        """Also the classifier, which an untied model creates and never uses."""
        return super().is_redundant(name) or (name == "transformer.classifier.weight" and not self.tied)

    @staticmethod
    def _heads(raw: Mapping[str, Any], layers: int, model_dim: int, head_dim: int) -> tuple[tuple[int, ...], ...]:
        """(query heads, kv heads) a layer, from the multipliers or the stored lists, which must agree."""
        groups = integer(raw, "num_gqa_groups", 1, MAX_WIDTH)
        stored = _whole_list(raw, "num_query_heads", layers), _whole_list(raw, "num_kv_heads", layers)
        if raw.get("qkv_multipliers") is None and stored[0] and stored[1]:
            return stored[0], stored[1]
        multipliers = _per_layer(raw, "qkv_multipliers", 1.0, layers)
        widths = [_make_divisible(m * model_dim, head_dim * groups) for m in multipliers]
        heads = tuple(bounded(width // head_dim, "qkv_multipliers") for width in widths)
        derived = heads, tuple(h // groups for h in heads)
        for key, listed, reckoned in zip(("num_query_heads", "num_kv_heads"), stored, derived, strict=True):
            if listed is not None and listed != reckoned:
                raise BadCheckpoint(
                    f"config.json: {key} {list(listed)} disagrees with qkv_multipliers, which give {list(reckoned)}. "
                    "Take config.json from the model's own repository."
                )
        return derived

    def to_dict(self) -> dict[str, Any]:
        """The keys of config.json that describe the model, lists expanded and no default left out."""
        return {
            "model_type": self.family,
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
        return shapes if self.tied else shapes | {HEAD: (V, E)}


def _refuse_windows(raw: Mapping[str, Any]) -> None:
    """Refuses layers that attend to the last few positions alone."""
    kinds = given(raw, "layer_types", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind != "full_attention":
            raise unsupported("config.json: layer_types", kind, ["full_attention"])
    if (window := raw.get("sliding_window")) is not None:
        raise Unsupported(f"config.json: sliding_window is {window!r} (a mistral's is {MISTRAL_WINDOW} where it does "
                          "not say), and elm-mlx runs attention to all positions alone. Write null there if the model "
                          "was trained so.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """Llama 3, 3.1, 3.2 (text) and 3.3.

    Source: the model cards' config.json; defaults of missing keys are those of transformers' LlamaConfig.
    """

    family: ClassVar[str] = "llama"
    embedding_name: ClassVar[str] = "model.embed_tokens.weight"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LlamaConfig:
        """Reads either spelling of config.json; raises BadCheckpoint for what cannot be, Unsupported by name."""
        choice(raw, "hidden_act", ["silu", "swish"])
        choice(raw, "attention_bias", [False])
        choice(raw, "mlp_bias", [False])
        _refuse_windows(raw)
        layers = integer(raw, "num_hidden_layers", 32, MAX_LAYERS)
        model_dim = integer(raw, "hidden_size", 4096, MAX_WIDTH)
        heads = integer(raw, "num_attention_heads", 32, MAX_WIDTH)
        if raw.get("head_dim") is None and model_dim % heads:
            raise BadCheckpoint(f"config.json: hidden_size {model_dim} does not divide by {heads}; give head_dim.")
        bos = token_ids(raw.get("bos_token_id", 1), "config.json: bos_token_id")
        return cls(
            vocab_size=integer(raw, "vocab_size", 32_000, MAX_VOCAB),
            model_dim=model_dim,
            head_dim=integer(raw, "head_dim", model_dim // heads, MAX_WIDTH),
            num_heads=(heads,) * layers,
            num_kv_heads=(integer(raw, "num_key_value_heads", heads, MAX_WIDTH),) * layers,
            ffn_dims=(integer(raw, "intermediate_size", 11_008, MAX_WIDTH),) * layers,
            norm_eps=positive(raw, "rms_norm_eps", 1e-6, 1.0),
            rope=Rope.from_dict(raw),
            context_length=integer(raw, "max_position_embeddings", 2048, MAX_POSITIONS),
            tied=flag(raw, "tie_word_embeddings", False),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=token_ids(raw.get("eos_token_id", 2), "config.json: eos_token_id"),
            quantization=read_quantization(raw),
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of config.json that describe the model, RoPE in the older spelling, no default left out."""
        return {
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "hidden_size": self.model_dim,
            "head_dim": self.head_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads[0],
            "num_key_value_heads": self.num_kv_heads[0],
            "intermediate_size": self.ffn_dims[0],
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope.theta,
            "rope_scaling": self.rope.to_dict() or None,
            "max_position_embeddings": self.context_length,
            "tie_word_embeddings": self.tied,
        }

    def weight_shapes(self) -> dict[str, Shape]:
        """Every tensor of an unquantized checkpoint by its Hugging Face name, with its shape (out, in)."""
        E, D, V = self.model_dim, self.head_dim, self.vocab_size
        shapes: dict[str, Shape] = {self.embedding_name: (V, E)}
        for i, (H, K, F) in enumerate(zip(self.num_heads, self.num_kv_heads, self.ffn_dims, strict=True)):
            layer: dict[str, Shape] = {
                "input_layernorm": (E,),
                "self_attn.q_proj": (H * D, E),
                "self_attn.k_proj": (K * D, E),
                "self_attn.v_proj": (K * D, E),
                "self_attn.o_proj": (E, H * D),
                "post_attention_layernorm": (E,),
                "mlp.gate_proj": (F, E),
                "mlp.up_proj": (F, E),
                "mlp.down_proj": (E, F),
            }
            shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (E,)
        return shapes if self.tied else shapes | {HEAD: (V, E)}


FAMILIES: dict[str, type[OpenELMConfig] | type[LlamaConfig]] = {c.family: c for c in (OpenELMConfig, LlamaConfig)}


def config_from_dict(raw: Mapping[str, Any]) -> OpenELMConfig | LlamaConfig:
    """The configuration for a parsed config.json, by its `model_type`.

    Raises Unsupported for a family we do not run, BadCheckpoint for values that cannot be.
    """
    model_type = raw.get("model_type")
    if model_type is None:
        raise BadCheckpoint("config.json has no model_type, so it is not a Hugging Face model configuration.")
    if model_type == "mistral":  # Llama's architecture, but for a window that is there unless switched off
        raw, model_type = {"sliding_window": MISTRAL_WINDOW, **raw}, LlamaConfig.family
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise unsupported("config.json: model_type", model_type, FAMILIES)
    return FAMILIES[model_type].from_dict(raw)
