"""The configuration of a guest: what elm-mlx itself has to know of a model that mlx-lm's classes compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from elm_mlx.config.abilities import Abilities
from elm_mlx.config.base import ModelConfig, Shape
from elm_mlx.config.guest_families import GuestFamily, guest_family
from elm_mlx.config.quantization import read_quantization
from elm_mlx.config.rope import RopeConfig
from elm_mlx.config.values import MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Values

UNKNOWN_CONTEXT = 8192  # tokens, where a configuration names none, as those of recurrent models
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "model_dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "n_kv_heads", "num_kv_heads")
CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")
VOCABULARIES = ("vocab_size", "padded_vocab_size")
MOST_DEEP = 8  # objects within one another in a config.json
ROPES = ("rope_scaling", "rope_parameters")
ONE_LENGTH = "dynamic"  # the kind of RoPE that mlx-lm computes for rows of one length alone
MAX_EXPERTS = 100_000  # of a layer, or their width: a class may make each by itself


@dataclass(frozen=True, kw_only=True)
class GuestConfig(ModelConfig):
    """The shape of a guest as far as elm-mlx needs it, and `raw`, the whole config.json, for mlx-lm's classes.
    `parameters` is counted from the weights' headers, 0 before; heads and widths are what the file says, or guesses for
    estimates of memory alone: a loaded guest's caches are measured. `unread_window` is an attention window, in
    positions, that mlx-lm's class has not; `ropes` are the kinds of RoPE that the file names. A conversion adds the
    `shapes` of all tensors, and by the name of each matrix what mlx-lm's class says of quantizing it, the
    `settings`."""

    family = "guest"
    embedding_name = ""
    guest: GuestFamily
    raw: Mapping[str, Any]
    parameters: int = 0
    has_context: bool = True
    unread_window: int | None = None
    ropes: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def model_type(self) -> str:
        """The model_type."""
        return self.guest.model_type

    @property
    def label(self) -> str:
        """The model_type: all guests are one family here."""
        return self.guest.model_type

    @property
    def abilities(self) -> Abilities:
        """What its caches were shown to be able to do, as far as its RoPE takes rows of several lengths."""
        able = self.guest.abilities
        return replace(able, rows=able.rows and ONE_LENGTH not in self.ropes)

    @property
    def parameter_count(self) -> int:
        """The number of weights, where the headers were read."""
        return self.parameters

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences about what is not known of this model."""
        name, found = self.guest.model_type, []
        if not self.guest.tested:
            found.append(f"Models of the kind {name} run through mlx-lm, and elm-mlx's tests run none of them: compare "
                         "its answers with those of `mlx_lm.generate`.")  # fmt: skip
        if not self.has_context:
            found.append(f"config.json says nothing of the longest context; {self.context_length:,} tokens are taken.")
        if self.unread_window:
            found.append(f"config.json has an attention window of {self.unread_window:,} positions, which mlx-lm's "
                         f"class for {name} does not compute: on longer texts answers are mlx-lm's, and may differ "
                         "from those of the model's publisher.")  # fmt: skip
        return tuple(found)

    @classmethod
    def from_values(cls, values: Values) -> Self:
        """Reads a config.json, with the part about text of one for several media. Raises as ModelConfig says, and
        MissingBackend where mlx-lm is not installed."""
        family = guest_family(str(values.get("model_type")), values.where)
        refuse_absurd(values.raw, values)
        own = Values({**values.section("text_config").raw, **values.raw}, values.where)
        layers, heads = first(own, LAYERS, 1, MAX_LAYERS), first(own, HEADS, 1, MAX_WIDTH)
        width = first(own, WIDTHS, 1, MAX_WIDTH)
        kv_heads = first(own, KV_HEADS, heads, MAX_WIDTH)
        context = first(own, CONTEXTS, UNKNOWN_CONTEXT, MAX_POSITIONS)
        return cls(
            guest=family,
            raw=values.raw,
            vocab_size=first(own, VOCABULARIES, 0, MAX_VOCAB),
            model_dim=width,
            head_dim=own.integer("head_dim", max(1, width // heads), MAX_WIDTH),
            num_heads=(heads,) * layers,
            num_kv_heads=(kv_heads,) * layers,
            ffn_dims=(4 * width,) * layers,
            norm_eps=1e-5,
            rope=RopeConfig(10_000.0),
            context_length=context,
            has_context=any(own.get(key) is not None for key in CONTEXTS),
            unread_window=unread_window(own, family, context),
            ropes=ropes_in(own),
            tied=True,
            bos_token_id=next(iter(own.token_ids("bos_token_id")), None),
            eos_token_ids=own.token_ids("eos_token_id"),
            quantization=read_quantization(values),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nothing of its own: what config.json says is for mlx-lm's classes."""
        return {}

    def weight_shapes(self) -> dict[str, Shape]:
        """The tensors that mlx-lm's classes have, where a conversion has asked them."""
        return dict(self.shapes)

    def is_redundant(self, name: str) -> bool:
        """Whether nothing reads a tensor: mlx-lm's classes have dropped those."""
        return False


def first(values: Values, keys: tuple[str, ...], default: int, limit: int) -> int:
    """The whole number under the first of some keys that is there."""
    for key in keys:
        if isinstance(value := values.get(key), int | float) and not isinstance(value, bool):
            return values.integer(key, default, limit)
        if value is not None and not isinstance(value, list):
            raise values.wrong(f"{key} is {value!r:.50}, where a whole number belongs.")
    return default


def unread_window(values: Values, family: GuestFamily, context: int) -> int | None:
    """An attention window shorter than the context that mlx-lm's class of a tested family does not compute, in
    positions; None where there is none."""
    window = values.get("sliding_window")
    is_used = isinstance(window, int) and 0 < window < context and values.get("use_sliding_window") is not False
    return window if is_used and family.tested and not family.windows else None


def ropes_in(values: Values) -> frozenset[str]:
    """The kinds of RoPE that a configuration names."""
    ropes = [rope for key in ROPES if isinstance(rope := values.get(key), Mapping)]
    return frozenset(str(rope[key]) for rope in ropes for key in ("type", "rope_type") if key in rope)


def most_of(key: str) -> int | None:
    """The most of what a key of config.json counts: layers, or experts; None where it counts neither."""
    return next((most for word, most in (("layer", MAX_LAYERS), ("expert", MAX_EXPERTS)) if word in key), None)


def refuse_absurd(raw: Mapping[str, Any], values: Values, depth: int = 0) -> None:
    """Refuses numbers of layers and of experts that would exhaust this machine before a weight is looked at. Raises
    BadCheckpoint."""
    if depth > MOST_DEEP:
        raise values.wrong("has objects too deep within one another.")
    for key, value in raw.items():
        if isinstance(value, Mapping):
            refuse_absurd(value, values, depth + 1)
        elif isinstance(value, int | float) and (most := most_of(str(key))) is not None and value > most:
            raise values.wrong(f"{key} is {value}, above {most:,}.")
        elif isinstance(value, int | float) and value > 1e15:
            raise values.wrong(f"{key} is {value:g}, which no model has.")
