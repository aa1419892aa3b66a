"""CoreNet's own OpenELM checkpoints, and Apple's MLX copies of them: flat names, padded rows, no architecture.

The shapes give the architecture. A CoreNet yaml, or the config.json of Apple's copies, adds the context length and is
checked against them. Source: apple/corenet, general_gpt.py, projects/openelm, mlx_examples/open_elm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import mlx.core as mx
import yaml  # type: ignore[import-untyped]

from elm_mlx.config import HEAD_NAME, OpenELMConfig, Shape
from elm_mlx.config.values import MAX_POSITIONS, MAX_VOCAB, Values
from elm_mlx.convert.keymap import AUTHORITIES, RENAME_RULES, rename
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint, InvalidRequest
from elm_mlx.files import MAX_SMALL_BYTES, read_bytes, reading

APPLES = "weights.safetensors"
AVERAGED = ("checkpoint_average.pt", "checkpoint_avg.pt")  # the mean of the last few checkpoints, which Apple released
MAX_YAML_BYTES = 2**16  # CoreNet's have 3 kB
PADDING_INDEX = 32_000  # Llama 2's vocabulary ends here; the rows after it fill up a multiple of 128
SIZES = {"OpenELM-270M": (1280, 16), "OpenELM-450M": (1536, 20), "OpenELM-1_1B": (2048, 28), "OpenELM-3B": (3072, 36)}


def files(directory: Path) -> list[str]:
    """A directory's one checkpoint: Apple's file, an average, else the only .pt. Raises InvalidRequest for several."""
    with reading(directory):
        names = sorted(file.name for file in directory.iterdir() if file.suffix == ".pt" and file.is_file())
        known = [name for name in (APPLES, *AVERAGED) if (directory / name).is_file()]
    states = [name for name in names if not name.startswith("training_")]
    chosen = known[:1] or states or names
    if len(chosen) > 1:
        raise InvalidRequest(f"{directory} holds {len(chosen)} checkpoints, {', '.join(chosen[:5])}. Name one of them.")
    return chosen


def renamed_shapes(tensors: Mapping[str, LazyTensor]) -> dict[str, Shape]:
    """The shape of each tensor by its name in Hugging Face's layout."""
    return {rename(name, RENAME_RULES["openelm", "corenet"]): tensor.shape for name, tensor in tensors.items()}


def is_corenet(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether the tensors have CoreNet's names."""
    return OpenELMConfig.embedding_name in renamed_shapes(tensors)


def yaml_facts(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """What the CoreNet configurations of a directory say of the model, and the names of their files; often both are
    empty. Raises InvalidRequest where the configurations differ."""
    with reading(directory):
        files = [file for file in sorted(directory.iterdir()) if file.suffix in (".yaml", ".yml")]
    said = {file.name: facts for file in files if (facts := general_gpt(file))}
    facts = next(iter(said.values()), {})
    if any(other != facts for other in said.values()):
        raise InvalidRequest(f"{directory} holds CoreNet configurations of several models. Keep the checkpoint's own.")
    return facts, list(said)


def general_gpt(file: Path) -> dict[str, Any]:
    """The section model.language_modeling.general_gpt, with whole numbers as int; empty for a yaml of another kind."""
    data = read_bytes(file, MAX_SMALL_BYTES)
    if b"general_gpt" not in data or len(data) > MAX_YAML_BYTES:
        return {}
    try:
        section: Any = yaml.load(data, Loader=yaml.BaseLoader)  # gives text, lists and mappings: no object is built
        for key in ("model", "language_modeling", "general_gpt"):
            section = section.get(key) if isinstance(section, dict) else None
        items = section.items() if isinstance(section, dict) else ()
        # Only texts are kept: a list may stand for more than any memory holds, and to compare two would never end.
        texts = {str(key): text if isinstance(text, str) else type(text).__name__ for key, text in items}
        return {key: int(text) if text.isdecimal() else text for key, text in texts.items()}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{file} is not yaml that CoreNet reads ({type(error).__name__}). Fetch it again, or move "
                            "it away: the weights tell the architecture, too.") from error  # fmt: skip


def raw_config(where: Path, tensors: Mapping[str, LazyTensor], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json made from the shapes. Raises BadCheckpoint where one is missing, or `facts` contradict them."""
    shapes, values = renamed_shapes(tensors), Values(facts, AUTHORITIES["corenet"])

    def length_of(name: str, axis: int) -> int:
        shape = shapes.get(f"transformer.{name}.weight", ())
        if len(shape) <= axis or not shape[axis]:
            raise BadCheckpoint(f"{where}: {name}.weight is missing or has the shape {shape}. Fetch it again.")
        return shape[axis]

    layers = range(sum(name.endswith(".attn.qkv_proj.weight") for name in shapes))
    rows, model_dim = length_of("token_embeddings", 0), length_of("token_embeddings", 1)
    known = SIZES.get(str(facts.get("model_name")), (model_dim, len(layers)))
    if (rows, model_dim, len(layers)) != (values.integer("vocab_size", rows, MAX_VOCAB), *known):
        raise BadCheckpoint(f"{where} has {len(layers)} layers and an embedding of {rows} rows of {model_dim}: it is "
                            f"not the model of the configuration beside it: {facts.get('model_name')!r}, vocab_size "
                            f"{facts.get('vocab_size')}. Take both from the same model.")  # fmt: skip
    head_dim = length_of("layers.0.attn.q_norm", 0)
    heads = [length_of(f"layers.{i}.attn.out_proj", 1) // head_dim for i in layers]
    joined = [length_of(f"layers.{i}.attn.qkv_proj", 0) // head_dim for i in layers]  # H + 2 K
    ffn_dims = [length_of(f"layers.{i}.ffn.proj_2", 1) for i in layers]
    return {
        "model_type": "openelm",
        "activation_fn_name": "swish",
        "normalization_layer_name": "rms_norm",
        "ffn_with_glu": True,
        "vocab_size": kept_rows(rows, values.integer("padding_index", PADDING_INDEX, MAX_VOCAB, 0)),
        "model_dim": model_dim,
        "head_dim": head_dim,
        "num_transformer_layers": len(layers),
        "num_query_heads": heads,
        "num_kv_heads": [(both - query) // 2 for both, query in zip(joined, heads, strict=True)],
        "ffn_multipliers": [dim / model_dim for dim in ffn_dims],
        "ffn_dim_divisor": gcd(256, *ffn_dims),
        "normalize_qk_projections": True,
        "share_input_output_layers": HEAD_NAME not in shapes,
        "rope_freq_constant": 10_000,
        "max_context_length": values.integer("max_context_length", 2048, MAX_POSITIONS),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def kept_rows(rows: int, padding_index: int) -> int:
    """How many rows of an embedding come before the padding that makes `rows` a multiple of 128."""
    return padding_index if rows % 128 == 0 and 0 < rows - padding_index <= 128 and padding_index else rows


def drop_padding(tensors: Mapping[str, LazyTensor], vocab_size: int) -> tuple[dict[str, LazyTensor], list[str]]:
    """Cuts the rows after the vocabulary off the embedding (and an untied head). Returns all tensors, and the names of
    what was cut off."""
    kept, dropped = dict(tensors), []
    for name, tensor in tensors.items():
        is_table = rename(name, RENAME_RULES["openelm", "corenet"]) in (OpenELMConfig.embedding_name, HEAD_NAME)
        rows = tensor.shape[0] if tensor.shape else 0
        if is_table and kept_rows(rows, vocab_size) == vocab_size < rows:
            kept[name] = replace(
                tensor, shape=(vocab_size, *tensor.shape[1:]), read=partial(read_first_rows, tensor, vocab_size)
            )
            dropped.append(f"{name}[{vocab_size}:]")
    return kept, dropped


def read_first_rows(tensor: LazyTensor, rows: int) -> mx.array:
    """Reads the first `rows` rows of a tensor."""
    return tensor.read()[:rows]
