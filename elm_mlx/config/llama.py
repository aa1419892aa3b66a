"""Llama's configuration, and that of models which differ from it in a value alone: Mistral has an attention window,
MobileLLM may run each block twice in a row, MobiLlama has one feed-forward for all layers.

Source: the model cards' config.json; defaults of missing keys are those of transformers' LlamaConfig, but for two. The
original context of llama3's RoPE scaling is 8192, as in every published model and in mlx-lm; transformers 5 takes
max_position_embeddings there. And a file without BOS and EOS names none: LlamaConfig's 1 and 2 are Llama 2's, a quote
and a number sign for Llama 3, and transformers neither starts nor stops at them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from elm_mlx.config.base import HEAD_NAME, ModelConfig, Shape, check_heads
from elm_mlx.config.quantization import read_quantization
from elm_mlx.config.rope import RopeConfig
from elm_mlx.config.values import MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Values
from elm_mlx.errors import Unsupported

MOBILELLM, MOBILLAMA = "mobilellm", "mobillama"  # as a model_type
SHARED_FFN = "model.mlp."  # what the names of a feed-forward begin with that all layers have
MISTRAL_WINDOW = 4096  # positions, by transformers' MistralConfig, where config.json has no sliding_window


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """Llama 3, 3.1, 3.2 (text) and 3.3, and models of their shape; with `shared_ffn` all layers have one feed-forward,
    which is stored once."""

    family: ClassVar[str] = "llama"
    embedding_name: ClassVar[str] = "model.embed_tokens.weight"
    activations: ClassVar[tuple[str, ...]] = ("silu", "swish")
    shared_ffn: bool = False

    @property
    def model_type(self) -> str:
        """What config.json calls the architecture: Llama's name where every program for Llama computes the same."""
        return MOBILLAMA if self.shared_ffn else MOBILELLM if self.repeats > 1 else self.family

    @property
    def sharing(self) -> str | None:
        """Which weights layers share, in words; None where each has weights of its own."""
        if self.shared_ffn:
            return f"{self.num_layers}, with one feed-forward for all of them"
        return f"{self.num_layers}: each of {self.num_blocks} blocks runs twice in a row" if self.repeats > 1 else None

    @property
    def is_shared(self) -> bool:
        """Whether layers share weights."""
        return self.shared_ffn or self.repeats > 1

    def unshared(self) -> LlamaConfig:
        """The plain model that computes the same, each layer with weights of its own."""

        def each(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(value for value in values for _ in range(self.repeats))

        heads, kv_heads, ffn_dims = each(self.num_heads), each(self.num_kv_heads), each(self.ffn_dims)
        return replace(self, repeats=1, shared_ffn=False, num_heads=heads, num_kv_heads=kv_heads, ffn_dims=ffn_dims)

    @classmethod
    def from_values(cls, values: Values) -> LlamaConfig:
        """Reads a config.json, RoPE in either spelling. Raises BadCheckpoint for impossible values, and Unsupported,
        with the name of what elm-mlx does not run."""
        values.require("hidden_act", cls.activations)
        values.require("attention_bias", [False])
        values.require("mlp_bias", [False])
        values.require("rope_traditional", [False])  # mlx-lm's key, for rows in Meta's order
        refuse_windows(values)
        layers = values.integer("num_hidden_layers", 32, MAX_LAYERS)
        model_dim = values.integer("hidden_size", 4096, MAX_WIDTH)
        heads = values.integer("num_attention_heads", 32, MAX_WIDTH)
        if values.get("head_dim") is None and model_dim % heads:
            raise values.wrong(f"hidden_size {model_dim} does not divide by {heads}.", "Give head_dim.")
        head_dim = values.integer("head_dim", model_dim // heads, MAX_WIDTH)
        kv_heads = values.integer("num_key_value_heads", heads, MAX_WIDTH)
        check_heads(values, head_dim, [heads], [kv_heads])
        bos, kind = values.token_ids("bos_token_id"), values.get("model_type")
        return cls(
            vocab_size=values.integer("vocab_size", 32_000, MAX_VOCAB),
            model_dim=model_dim,
            head_dim=head_dim,
            num_heads=(heads,) * layers,
            num_kv_heads=(kv_heads,) * layers,
            ffn_dims=(values.integer("intermediate_size", 11_008, MAX_WIDTH),) * layers,
            norm_eps=values.positive("rms_norm_eps", 1e-6, 1.0),
            rope=RopeConfig.from_values(values),
            context_length=values.integer("max_position_embeddings", 2048, MAX_POSITIONS),
            tied=values.flag("tie_word_embeddings", False) or values.flag("share_embedding", False),
            bos_token_id=bos[0] if bos else None,
            eos_token_ids=values.token_ids("eos_token_id"),
            quantization=read_quantization(values),
            repeats=2 if kind == MOBILELLM and values.flag("layer_sharing", False) else 1,
            shared_ffn=kind == MOBILLAMA,
        )

    def to_dict(self) -> dict[str, Any]:
        """The keys of config.json that describe the model, RoPE in the older spelling, defaults included."""
        return {
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.model_dim,
            "head_dim": self.head_dim,
            "num_hidden_layers": self.num_blocks,
            "num_attention_heads": self.num_heads[0],
            "num_key_value_heads": self.num_kv_heads[0],
            "intermediate_size": self.ffn_dims[0],
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope.theta,
            "rope_scaling": self.rope.to_dict() or None,
            "max_position_embeddings": self.context_length,
            "tie_word_embeddings": self.tied,
        } | ({"share_embedding": self.tied, "layer_sharing": True} if self.repeats > 1 else {})

    def weight_shapes(self) -> dict[str, Shape]:
        """Every tensor of an unquantized checkpoint by its Hugging Face name, with its shape (out, in)."""
        E, V = self.model_dim, self.vocab_size
        shapes: dict[str, Shape] = {self.embedding_name: (V, E)}
        for block in range(self.num_blocks):
            shapes |= {
                f"model.layers.{block}.{name}.weight": shape for name, shape in self._block_shapes(block).items()
            }
        if self.shared_ffn:
            shapes |= {f"model.{name}.weight": shape for name, shape in self._ffn_shapes(0).items()}
        shapes["model.norm.weight"] = (E,)
        return shapes if self.tied else shapes | {HEAD_NAME: (V, E)}

    def _block_shapes(self, block: int) -> dict[str, Shape]:
        """The tensors of one block, by their names without what all of them begin and end with."""
        E, D, H, K = self.model_dim, self.head_dim, self.num_heads[block], self.num_kv_heads[block]
        shapes: dict[str, Shape] = {
            "input_layernorm": (E,),
            "self_attn.q_proj": (H * D, E),
            "self_attn.k_proj": (K * D, E),
            "self_attn.v_proj": (K * D, E),
            "self_attn.o_proj": (E, H * D),
            "post_attention_layernorm": (E,),
        }
        return shapes if self.shared_ffn else shapes | self._ffn_shapes(block)

    def _ffn_shapes(self, block: int) -> dict[str, Shape]:
        """The tensors of a feed-forward, named likewise."""
        E, F = self.model_dim, self.ffn_dims[block]
        return {"mlp.gate_proj": (F, E), "mlp.up_proj": (F, E), "mlp.down_proj": (E, F)}

    def times_read(self, name: str) -> int:
        """How often a step reads the weight `name`."""
        return self.num_layers if name.startswith(SHARED_FFN) else super().times_read(name)


def refuse_windows(values: Values) -> None:
    """Raises Unsupported for layers that attend to a window of the last positions alone."""
    kinds = values.get("layer_types", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind != "full_attention":
            raise values.unsupported("layer_types", kind, ["full_attention"])
    if (window := values.get("sliding_window")) is not None:
        raise Unsupported(f"{values.where}: sliding_window is {window!r} (a mistral without the key has "
                          f"{MISTRAL_WINDOW}), and elm-mlx only runs models without a window. If yours was trained "
                          "without one, write null there.")  # fmt: skip
