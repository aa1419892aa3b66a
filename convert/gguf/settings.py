"""The metadata of a GGUF file as a config.json: the architecture's keys, llama.* or openelm.*, and the special ids.

Keys: ggml-org/ggml docs/gguf.md; what llama.cpp's converter writes for OpenELM, with one number a layer for heads and
widths: convert_hf_to_gguf.py, OpenELMModel.set_gguf_parameters. Nothing is passed over: a key of the architecture that
is not known here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

import numpy as np

from elm_mlx.config.values import MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Values
from elm_mlx.convert.gguf import rope
from elm_mlx.convert.gguf.header import Header
from elm_mlx.convert.gguf.special import bos_and_stops
from elm_mlx.errors import Unsupported

ARCHITECTURES = ("llama", "openelm")
VERSION = 2  # of the blocks, since May 2023
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
READ = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "attention.sliding_window", "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scale_linear", "rope.scaling.original_context_length", "rope.scaling.finetuned",
}  # fmt: skip
# What may be there with the value of a plain model, and that value.
PLAIN: dict[str, object] = {
    "expert_count": 0, "expert_used_count": 0, "use_parallel_residual": False, "attention.causal": True,
    "attention.max_alibi_bias": 0, "attention.clamp_kqv": 0, "logit_scale": 1, "residual_scale": 1,
    "embedding_scale": 1, "rope.scaling.attn_factor": 1, "tensor_data_layout": "Meta AI original pth",
    "attn_logit_softcapping": 0, "final_logit_softcapping": 0,
}  # fmt: skip


def architecture(where: object, metadata: Mapping[str, Any]) -> str:
    """The name of the architecture. Raises Unsupported for a file of another one, or of no model."""
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise Unsupported(f"{where} is not a model ({kind!r:.40}). Name the file of the model itself.")
    if (version := metadata.get("general.quantization_version", VERSION)) != VERSION:
        raise Unsupported(f"{where} has blocks of version {version!r:.40}, and elm-mlx reads those of {VERSION}. Take "
                          "a newer file.")  # fmt: skip
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise Unsupported(f"{where} has the architecture {name!r:.40}; of GGUF files elm-mlx reads those of {known}. "
                          "Take the model's safetensors.")  # fmt: skip
    return str(name)


def raw_config(where: str, header: Header) -> dict[str, Any]:
    """A config.json made of the metadata; what it leaves open is taken from the tensors. Raises BadCheckpoint,
    Unsupported."""
    name = architecture(where, header.metadata)
    own = {key.removeprefix(f"{name}."): value for key, value in header.metadata.items() if key.startswith(f"{name}.")}
    values = Values({key: as_list(value) for key, value in own.items()}, where)
    refuse_unknown(name, values)
    rows, width = embedding_shape(values, header)
    both = {"model_type": name, "vocab_size": rows} | bos_and_stops(where, header.metadata, rows)
    return both | (openelm if name == "openelm" else llama)(values, header, width)


def as_list(value: Any) -> Any:
    """A value of the metadata as JSON has it."""
    return value[: MAX_LAYERS + 1].tolist() if isinstance(value, np.ndarray) else value


def refuse_unknown(name: str, values: Values) -> None:
    """Raises Unsupported for a key that would change what the model computes, or that is not known."""
    for key, value in values.raw.items():
        if key not in READ and not (key in PLAIN and PLAIN[key] == value):
            raise Unsupported(f"{values.where}: {name}.{key} is {value!r:.60}, which elm-mlx does not run.")


def embedding_shape(values: Values, header: Header) -> tuple[int, int]:
    """(vocabulary, width) by the embedding, which the metadata must not contradict."""
    shape = header.tensors[EMBEDDING].shape if EMBEDDING in header.tensors else ()
    if len(shape) != 2:
        raise values.wrong(f"{EMBEDDING} is missing, or is no matrix.", "Fetch the file again.")
    for key, found in zip(("vocab_size", "embedding_length"), shape, strict=True):
        if (said := values.integer(key, found, 2**31)) != found:
            raise values.wrong(f"{key} is {said}, and the embedding has {found}.", "Fetch the file again.")
    return shape[0], shape[1]


def needed(values: Values, key: str, limit: int) -> int:
    """A number that every file has. Raises BadCheckpoint where it is missing."""
    if values.get(key) is None:
        raise values.wrong(f"{key} is missing.", "Fetch the file again.")
    return values.integer(key, 0, limit)


def per_layer(values: Values, key: str, layers: int, default: list[int] | None = None) -> list[int]:
    """One number for each layer, from a list or from one number for all of them. Raises BadCheckpoint."""
    value = values.get(key)
    if value is None and default is not None:
        return default
    listed = value if isinstance(value, list) else [value] * layers
    if len(listed) != layers or None in listed:
        raise values.wrong(f"{key} needs one number for each of {layers} layers.", "Fetch the file again.")
    return [Values({key: each}, values.where).integer(key, 0, MAX_WIDTH) for each in listed]


def head_width(values: Values, usual: int) -> int:
    """The width of a head, of keys and values alike and rotated as a whole. Raises Unsupported for other heads."""
    width = values.integer("attention.key_length", usual, MAX_WIDTH)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := values.integer(key, width, MAX_WIDTH)) != width:
            raise values.unsupported(key, found, [width])
    return width


def llama(values: Values, header: Header, width: int) -> dict[str, Any]:
    """The keys of a Llama's config.json."""
    layers = needed(values, "block_count", MAX_LAYERS)
    heads = one(values, "attention.head_count", layers)
    if values.get("attention.key_length") is None and width % heads:
        raise values.wrong(f"embedding_length {width} does not divide by {heads} heads.", "Fetch the file again.")
    head_dim = head_width(values, width // heads or 1)
    window = values.integer("attention.sliding_window", 0, MAX_POSITIONS, 0)
    return {
        "hidden_act": "silu",
        "hidden_size": width,
        "head_dim": head_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": one(values, "attention.head_count_kv", layers, [heads] * layers),
        "intermediate_size": one(values, "feed_forward_length", layers),
        "rms_norm_eps": values.positive("attention.layer_norm_rms_epsilon", 1e-5, 1.0),
        "rope_theta": values.positive("rope.freq_base", 10_000.0),
        "rope_scaling": rope.scaling(values, header.tensors, head_dim),
        "max_position_embeddings": needed(values, "context_length", MAX_POSITIONS),
        "tie_word_embeddings": HEAD not in header.tensors,
    } | ({"sliding_window": window} if window else {})


def one(values: Values, key: str, layers: int, default: list[int] | None = None) -> int:
    """A number that all layers share. Raises Unsupported where they differ."""
    found = per_layer(values, key, layers, default)
    if len({*found}) > 1:
        raise Unsupported(f"{values.where}: {key} differs from layer to layer, which no Llama does that elm-mlx runs.")
    return found[0]


def openelm(values: Values, header: Header, width: int) -> dict[str, Any]:
    """The keys of an OpenELM's config.json."""
    layers = needed(values, "block_count", MAX_LAYERS)
    values.require("rope.scaling.type", ["none"])
    values.require("attention.sliding_window", [0])
    values.require("attention.layer_norm_rms_epsilon", [1e-6])
    if rope.FACTORS in header.tensors:
        raise Unsupported(f"{values.where} has {rope.FACTORS}, which no OpenELM has.")
    widths = per_layer(values, "feed_forward_length", layers)
    return {
        "activation_fn_name": "swish",
        "normalization_layer_name": "rms_norm",
        "ffn_with_glu": True,
        "model_dim": width,
        "head_dim": head_width(values, 64),
        "num_transformer_layers": layers,
        "num_query_heads": per_layer(values, "attention.head_count", layers),
        "num_kv_heads": per_layer(values, "attention.head_count_kv", layers),
        "ffn_multipliers": [one_width / width for one_width in widths],
        "ffn_dim_divisor": gcd(256, *widths),
        "normalize_qk_projections": any(".attn_q_norm." in name for name in header.tensors),
        "share_input_output_layers": HEAD not in header.tensors,
        "rope_freq_constant": values.positive("rope.freq_base", 10_000.0),
        "max_context_length": needed(values, "context_length", MAX_POSITIONS),
    }
