"""Maps a checkpoint's tensor names to those that we write: rules as data, and a check that no tensor is left over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from elm_mlx.config import HEAD_NAME, ModelConfig
from elm_mlx.config.values import CONFIG
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.errors import BadCheckpoint
from elm_mlx.store.other_names import HEADLESS, is_only_head, unwrap
from elm_mlx.store.weights import Entry, check_copy, check_entries

# (family, naming) -> (pattern, replacement) rules, the first match renames. Output uses Hugging Face's own names.
RENAME_RULES: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("openelm", "hugging-face"): [HEADLESS["openelm"]],
    ("llama", "hugging-face"): [HEADLESS["llama"]],
    ("bitnet", "hugging-face"): [HEADLESS["bitnet"]],
    ("openelm", "corenet"): [(r"^classifier\.", "lm_head."), (r"^", "transformer.")],
    ("llama", "meta"): [
        (r"^tok_embeddings\.", "model.embed_tokens."),
        (r"^layers\.(\d+)\.attention\.w([qkvo])\.", r"model.layers.\1.self_attn.\2_proj."),
        (r"^layers\.(\d+)\.feed_forward\.w1\.", r"model.layers.\1.mlp.gate_proj."),
        (r"^layers\.(\d+)\.feed_forward\.w2\.", r"model.layers.\1.mlp.down_proj."),
        (r"^layers\.(\d+)\.feed_forward\.w3\.", r"model.layers.\1.mlp.up_proj."),
        (r"^layers\.(\d+)\.attention_norm\.", r"model.layers.\1.input_layernorm."),
        (r"^layers\.(\d+)\.ffn_norm\.", r"model.layers.\1.post_attention_layernorm."),
        (r"^norm\.", "model.norm."),
        (r"^output\.", "lm_head."),
        (r"^rope\.freqs$", "rotary_emb.inv_freq"),
    ],
    ("llama", "gguf"): [
        (r"^token_embd\.", "model.embed_tokens."),
        (r"^blk\.(\d+)\.attn_([qkv])\.", r"model.layers.\1.self_attn.\2_proj."),
        (r"^blk\.(\d+)\.attn_output\.", r"model.layers.\1.self_attn.o_proj."),
        (r"^blk\.(\d+)\.ffn_(gate|up|down)\.", r"model.layers.\1.mlp.\2_proj."),
        (r"^blk\.(\d+)\.attn_norm\.", r"model.layers.\1.input_layernorm."),
        (r"^blk\.(\d+)\.ffn_norm\.", r"model.layers.\1.post_attention_layernorm."),
        (r"^output_norm\.", "model.norm."),
        (r"^output\.", "lm_head."),
        (r"^rope_freqs\.weight$", "rotary_emb.inv_freq"),  # the factors of a scaling that the configuration says
    ],
    ("openelm", "gguf"): [
        (r"^token_embd\.", "transformer.token_embeddings."),
        (r"^blk\.(\d+)\.attn_qkv\.", r"transformer.layers.\1.attn.qkv_proj."),
        (r"^blk\.(\d+)\.attn_output\.", r"transformer.layers.\1.attn.out_proj."),
        (r"^blk\.(\d+)\.attn_([qk])_norm\.", r"transformer.layers.\1.attn.\2_norm."),
        (r"^blk\.(\d+)\.ffn_gate\+ffn_up\.", r"transformer.layers.\1.ffn.proj_1."),
        (r"^blk\.(\d+)\.ffn_down\.", r"transformer.layers.\1.ffn.proj_2."),
        (r"^blk\.(\d+)\.(attn|ffn)_norm\.", r"transformer.layers.\1.\2_norm."),
        (r"^output_norm\.", "transformer.norm."),
        (r"^output\.", "lm_head."),
    ],
}
# What an error calls the place that the architecture comes from, by naming, where that is not config.json.
AUTHORITIES = {"corenet": "architecture", "meta": "params.json", "gguf": "metadata"}


@dataclass(frozen=True)
class Matched:
    """`tensors` by new name, `names` from new to old, and `dropped`, the old names of tensors that nothing reads."""

    tensors: dict[str, LazyTensor]
    names: dict[str, str]
    dropped: list[str]


def rename(name: str, rules: list[tuple[str, str]]) -> str:
    """The new name of a tensor: without the words of wrappers, and by the first rule that matches, if one does."""
    name = unwrap(name)
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def match(
    config: ModelConfig, family_layout: tuple[str, str], tensors: Mapping[str, LazyTensor], where: Path
) -> Matched:
    """Finds every tensor that the configuration calls for, and gives it its new name.

    Raises BadCheckpoint, which names both sides, where a tensor is missing, left over, given twice or of another shape.
    """
    rules = RENAME_RULES.get(family_layout, [])
    named: dict[str, LazyTensor] = {}
    names: dict[str, str] = {}
    dropped: list[str] = []
    head: LazyTensor | None = None
    renamed = {old: rename(old, rules) for old in tensors}
    only_head = bool(config.embedding_name) and is_only_head(config, renamed.values())
    for old, tensor in tensors.items():
        new = config.embedding_name if only_head and renamed[old] == HEAD_NAME else renamed[old]
        if config.is_redundant(new):
            dropped.append(old)
            head = tensor if new == HEAD_NAME else head
        elif new in named:
            raise BadCheckpoint(f"{where} holds {new} twice, as {names[new]} and as {old}. Fetch it again, or save it "
                                "with one of them.")  # fmt: skip
        else:
            named[new], names[new] = tensor, old
    expected = {name: Entry(mx.float32, shape) for name, shape in config.weight_shapes().items()}
    found = {name: Entry(tensor.dtype, tensor.shape) for name, tensor in named.items()}
    check_entries(where, expected, found, AUTHORITIES.get(family_layout[1], CONFIG))
    if head:
        check_copy(where, head.read(), named[config.embedding_name].read())
    return Matched(named, names, dropped)
