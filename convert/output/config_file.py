"""The config.json that we write: the source's own with every default spelled out, so that no reader has to guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config import ModelConfig
from elm_mlx.config.quantization import Quantization

# `auto_map` names Python files that a loader would run; quantization is ours to write.
# The last two are MobileLLM's words, written anew where they say more than a Llama's.
LEFT_OUT = ("auto_map", "quantization", "quantization_config", "share_embedding", "layer_sharing")
ARCHITECTURES = {  # by model_type
    "openelm": "OpenELMForCausalLM",
    "llama": "LlamaForCausalLM",
    "mobilellm": "MobileLLMForCausalLM",
    "mobillama": "MobiLlamaForCausalLM",
    "bitnet": "BitNetForCausalLM",
}


def output_config(
    raw: Mapping[str, Any], config: ModelConfig, quantization: Quantization | None, dtype: str
) -> dict[str, Any]:
    """The source's keys, replaced by ours where both have one; type and RoPE in the older spelling, too, since mlx-lm
    reads only that."""
    kept = {key: value for key, value in raw.items() if key not in LEFT_OUT}
    own = ARCHITECTURES.get(config.model_type)  # a guest keeps what its source says
    kind = {**({"architectures": [own]} if own else {}), "torch_dtype": dtype, "dtype": dtype}
    written = kept | config.to_dict() | kind
    return written | ({"quantization": quantization.to_dict()} if quantization else {})
