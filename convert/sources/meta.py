"""Meta's own Llama files: params.json, and a consolidated.NN.pth for each device that the model was split over.

Meta's RoPE rotates pairs of neighbouring rows of a head, Hugging Face's pairs of rows half a head apart: queries and
keys are put in Hugging Face's order.

Source: meta-llama/llama-models, models/llama3/args.py and model.py, models/checkpoint.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from elm_mlx.arguments import real_number
from elm_mlx.config import ModelConfig
from elm_mlx.config.values import MAX_LAYERS, MAX_MULTIPLIER, MAX_VOCAB, MAX_WIDTH, Values
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, InvalidRequest, Unsupported
from elm_mlx.files import reading

CONSOLIDATED = re.compile(r"consolidated\.\d\d\.pth")
EMBEDDING, OUTPUT, NORM = "tok_embeddings.weight", "output.weight", "norm.weight"
FIRST_KEYS, FIRST_OUT = "layers.0.attention.wk.weight", "layers.0.attention.wo.weight"
FIRST_GATE = "layers.0.feed_forward.w1.weight"
REQUIRED = ("dim", "n_layers", "n_heads")  # Meta's defaults are those of its first 7B, and each of its files has these
# The axis along which a tensor was split into shards; a tensor that is not listed is equal in all of them.
AXES = ((r"\.attention\.w[qkv]\.|\.feed_forward\.w[13]\.|^output\.", 0), (r"\.attention\.wo\.|\.feed_forward\.w2\.", 1))
OTHER_KINDS = {
    "quantization_args": "a checkpoint with 4-bit weights (SpinQuant or QLoRA)",
    "lora_args": "a checkpoint with 4-bit weights and an adapter (QLoRA)",
    "vision_model": "a vision model",
    "vision_chunk_size": "a vision model",
    "vision_num_cross_attention_layers": "a vision model",
    "moe_args": "a mixture of experts (Llama 4)",
}
SMALL_DIMS = (2048, 3072)  # Llama 3.2's 1B and 3B: tied, and RoPE scaled by 32, none of which params.json says
# What params.json does not say either, for Llama 3 (known by its vocabulary) and for the models before it.
LLAMA_3_VOCAB, SCALED_CONTEXT = 128_256, 131_072
LLAMA_3: dict[str, Any] = {
    "rope_theta": 500_000.0,
    "max_position_embeddings": 8192,
    "bos_token_id": 128_000,
    "eos_token_id": [128_001, 128_008, 128_009],
}
LLAMA_2: dict[str, Any] = {
    "rope_theta": 10_000.0,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def files(directory: Path) -> list[str]:
    """The names of all shards of a directory, from 00 on. Raises BadCheckpoint where one between them is missing."""
    with reading(directory):
        names = sorted(file.name for file in directory.iterdir() if CONSOLIDATED.fullmatch(file.name))
    for number, name in enumerate(names):
        if name != (due := shard_name(number)):
            raise BadCheckpoint(f"{directory} has {names[-1]} and no {due}. Fetch all shards.")
    return names


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"consolidated.{number:02d}.pth"


def refuse_unsupported_kinds(directory: Path, params: Values) -> None:
    """Refuses what Meta publishes in such files and we do not convert, by its name. Raises Unsupported."""
    kinds = [kind for key, kind in OTHER_KINDS.items() if params.get(key) not in (None, False, 0, -1)]
    with reading(directory):
        if any(directory.glob("fp8_scales_*.pt")):
            kinds.append("a checkpoint with fp8 weights")
    if kinds:
        raise Unsupported(f"{directory} is {kinds[0]}, which elm-mlx does not convert.",
                          "Take the bfloat16 text model, and quantize that with {bits}.")  # fmt: skip


def join_shards(where: Path, shards: Sequence[Mapping[str, LazyTensor]], dim: int) -> dict[str, LazyTensor]:
    """Joins shards to the tensors of the whole model, under Meta's names; they are read later. Raises BadCheckpoint for
    shards of different models, or where the last ones are missing."""
    # The columns of wo are split over the shards, so those of one shard show how many shards there are.
    rows, columns = length_of(shards[0], FIRST_OUT, 0), length_of(shards[0], FIRST_OUT, 1)
    if rows == dim and columns and dim % columns == 0 and len(shards) < dim // columns:
        raise BadCheckpoint(f"{where} has {len(shards)} of {dim // columns} shards and no {shard_name(len(shards))}. "
                            "Fetch all shards.")  # fmt: skip
    forms = [{name: (tensor.shape, tensor.dtype) for name, tensor in shard.items()} for shard in shards]
    for number, form in enumerate(forms):
        if form != forms[0]:
            raise BadCheckpoint(f"{where}: shard {number} does not hold the tensors and shapes of shard 0: they are of "
                                "different models. Fetch them again.")  # fmt: skip
    axes = {name: shard_axis(name, tensor, dim) for name, tensor in shards[0].items()}
    return {name: join_parts([shard[name] for shard in shards], axis) for name, axis in axes.items()}


def length_of(tensors: Mapping[str, LazyTensor], name: str, axis: int) -> int:
    """A tensor's length along an axis, 0 where there is no such tensor or axis."""
    shape = tensors[name].shape if name in tensors else ()
    return shape[axis] if axis < len(shape) else 0


def shard_axis(name: str, tensor: LazyTensor, dim: int) -> int | None:
    """The axis along which a tensor was split into shards, None where it is equal in all of them."""
    if name == EMBEDDING:
        return 0 if tensor.shape[1:] == (dim,) else 1  # Llama 3 splits the vocabulary, Llama 2 the width
    return next((axis for pattern, axis in AXES if re.search(pattern, name)), None)


def join_parts(parts: list[LazyTensor], axis: int | None) -> LazyTensor:
    """The parts as one tensor, which reads them one by one."""
    first = parts[0]
    if axis is None or len(parts) == 1 or axis >= len(first.shape):
        return first
    shape = tuple(size * len(parts) if i == axis else size for i, size in enumerate(first.shape))
    return LazyTensor(shape, first.dtype, lambda: mx.concatenate([part.read() for part in parts], axis))


def raw_config(
    params: Values,
    tensors: Mapping[str, LazyTensor],
    shards: Sequence[Mapping[str, LazyTensor]],
    rope_factor: float | None,
) -> dict[str, Any]:
    """params.json as a config.json; what it leaves open is taken from the tensors.

    Raises BadCheckpoint, and InvalidRequest for a `rope_factor` that has nothing to scale.
    """
    dim, heads = params.integer("dim", 4096, MAX_WIDTH), params.integer("n_heads", 32, MAX_WIDTH)
    if EMBEDDING not in tensors or len(tensors[EMBEDDING].shape) != 2:
        raise BadCheckpoint(f"There is no {EMBEDDING} in the shards, or it is no matrix. Fetch them again.")
    rows = tensors[EMBEDDING].shape[0]
    vocab = params.integer("vocab_size", -1, MAX_VOCAB, -1)
    refuse_other_model(params, tensors, dim, heads)
    tied = is_tied(tensors, dim)
    scaling = rope_scaling(params, 32.0 if tied or dim in SMALL_DIMS else 8.0, rope_factor)
    unsaid = LLAMA_3 if rows >= LLAMA_3_VOCAB else LLAMA_2
    return unsaid | {
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": rows if vocab == -1 else vocab,
        "hidden_size": dim,
        "num_hidden_layers": params.integer("n_layers", 32, MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": distinct_kv_heads(params.integer("n_kv_heads", heads, MAX_WIDTH), shards),
        "intermediate_size": ffn_dim(params, dim),
        "rms_norm_eps": params.positive("norm_eps", 1e-5, 1.0),
        "rope_theta": params.positive("rope_theta", unsaid["rope_theta"]),
        "rope_scaling": scaling,
        "max_position_embeddings": SCALED_CONTEXT if scaling else unsaid["max_position_embeddings"],
        "tie_word_embeddings": tied,
    }


def refuse_other_model(params: Values, tensors: Mapping[str, LazyTensor], dim: int, heads: int) -> None:
    """Checks params.json against the shapes of the tensors. Raises BadCheckpoint, which names the key that is wrong."""
    if missing := [key for key in REQUIRED if params.get(key) is None]:
        raise BadCheckpoint(f"{params.where} says no {missing[0]}. Fetch it again.")
    if dim % (2 * heads):
        raise BadCheckpoint(f"params.json: n_heads is {heads}, and dim {dim} does not make so many heads of an even "
                            "width. Take it from the same model.")  # fmt: skip
    kv_heads = params.integer("n_kv_heads", heads, MAX_WIDTH)
    layers = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
    keys, key_rows = length_of(tensors, FIRST_KEYS, 0), kv_heads * dim // heads
    for what, said, found in (
        ("dim is", dim, length_of(tensors, NORM, 0)),
        ("n_layers is", params.integer("n_layers", 0, MAX_LAYERS), layers),
        ("vocab_size is", params.integer("vocab_size", -1, MAX_VOCAB, -1), length_of(tensors, EMBEDDING, 0)),
        ("multiple_of and ffn_dim_multiplier make an FFN of", ffn_dim(params, dim), length_of(tensors, FIRST_GATE, 0)),
        ("n_heads and n_kv_heads make keys of", key_rows, keys if keys % key_rows else 0),  # repeated heads are allowed
    ):
        if found and said not in (-1, found):
            raise BadCheckpoint(f"params.json: {what} {said}, and the shards have {found}. Take both from the same "
                                "model.")  # fmt: skip


def ffn_dim(params: Values, dim: int) -> int:
    """The FFN's width: two thirds of 4 dim, times the multiplier, up to a multiple of `multiple_of`."""
    wanted = int(params.positive("ffn_dim_multiplier", 1.0, MAX_MULTIPLIER) * (8 * dim // 3))
    multiple = params.integer("multiple_of", 256, MAX_WIDTH)
    return params.width(-(-wanted // multiple) * multiple, "ffn_dim_multiplier")


def is_tied(tensors: Mapping[str, LazyTensor], dim: int) -> bool:
    """Whether the output matrix is the embedding: it is missing or, in the sizes that are tied, a copy."""
    if OUTPUT not in tensors:
        return True
    head, embedding = tensors[OUTPUT], tensors[EMBEDDING]
    return dim in SMALL_DIMS and head.shape == embedding.shape and are_equal(head.read(), embedding.read())


def are_equal(a: mx.array, b: mx.array) -> bool:
    """Whether two arrays of one shape hold equal elements; NaN is equal to NaN, as a copy of it is."""
    return bool(mx.array_equal(a, b, equal_nan=True).item())


def check_rope_factor(factor: float | None) -> None:
    """Raises InvalidRequest for a factor of RoPE scaling that is not a number above 0 and up to MAX_MULTIPLIER."""
    if factor is not None and not 0 < real_number("rope_factor", factor) <= MAX_MULTIPLIER:
        raise InvalidRequest(f"rope_factor is {factor}; it must be above 0 and up to {MAX_MULTIPLIER:g}.")


def rope_scaling(params: Values, usual: float, asked: float | None) -> dict[str, Any] | None:
    """Llama 3.1's scaling of RoPE with the `asked` factor, else the `usual` one; None for a model without it."""
    check_rope_factor(asked)
    if not params.flag("use_scaled_rope", False):
        if asked is not None:
            raise InvalidRequest("", f"{params.where} does not say use_scaled_rope, so there is nothing for "
                                     "{rope_factor} to scale. Leave it out.")  # fmt: skip
        return None
    factor = usual if asked is None else float(asked)
    scaling = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_type": "llama3", "factor": factor, **scaling}


def distinct_kv_heads(said: int, shards: Sequence[Mapping[str, LazyTensor]]) -> int:
    """How many of the `said` key/value heads differ: with one a shard, neighbours may hold copies of one head."""
    keys = [shard[FIRST_KEYS] for shard in shards if FIRST_KEYS in shard]
    if len(keys) != said or said == 1:
        return said
    first = keys[0].read()
    copies = next((i for i, tensor in enumerate(keys) if not are_equal(first, tensor.read())), said)
    return said // copies if copies and said % copies == 0 else said


def arrange_heads(tensors: Mapping[str, LazyTensor], config: ModelConfig) -> dict[str, LazyTensor]:
    """The tensors with every key/value head once, and with queries and keys in Hugging Face's order of rows."""
    heads, kv_heads, head_dim = config.num_heads[0], config.num_kv_heads[0], config.head_dim
    rows, done = kv_heads * head_dim, dict(tensors)
    for name, tensor in tensors.items():
        kind = name.removesuffix(".weight")[-2:] if ".attention." in name else ""
        if kind in ("wk", "wv") and has_copies(tensor, rows):
            read = partial(read_without_copies, name, tensor, kv_heads, head_dim)
            done[name] = tensor = replace(tensor, shape=(rows, *tensor.shape[1:]), read=read)
        if kind in ("wq", "wk"):
            done[name] = replace(tensor, read=partial(read_in_halves, tensor, heads if kind == "wq" else kv_heads))
    return done


def has_copies(tensor: LazyTensor, rows: int) -> bool:
    """Whether a tensor is a matrix of several times `rows` rows."""
    return len(tensor.shape) == 2 and tensor.shape[0] > rows and tensor.shape[0] % rows == 0


def read_without_copies(name: str, tensor: LazyTensor, kv_heads: int, head_dim: int) -> mx.array:
    """Reads [K * copies * D, E] as [K * D, E]. Raises BadCheckpoint where heads that should be copies differ."""
    heads = tensor.read().reshape(kv_heads, -1, head_dim, tensor.shape[1])
    if not are_equal(heads, mx.broadcast_to(heads[:, :1], heads.shape)):
        raise BadCheckpoint(f"{name} has more heads than n_heads and n_kv_heads in params.json make, and they are no "
                            f"copies of {kv_heads}. Take both from the same model.")  # fmt: skip
    return heads[:, 0].reshape(-1, tensor.shape[1])


def read_in_halves(tensor: LazyTensor, heads: int) -> mx.array:
    """Reads [H * D, E], and puts each head's even rows before its odd ones."""
    rows, dim = tensor.shape
    return tensor.read().reshape(heads, rows // heads // 2, 2, dim).swapaxes(1, 2).reshape(rows, dim)
