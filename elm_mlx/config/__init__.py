"""What a model is: frozen configurations that derive everything once from a checkpoint's config.json.

A configuration also says which tensors a checkpoint holds (`weight_shapes`). Loading, conversion and the
parameter counts all read that one list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elm_mlx.config.base import HEAD_NAME, ModelConfig, Shape
from elm_mlx.config.bitnet import BitNetConfig
from elm_mlx.config.guest import GuestConfig
from elm_mlx.config.llama import MISTRAL_WINDOW, MOBILELLM, MOBILLAMA, LlamaConfig
from elm_mlx.config.openelm import OpenELMConfig
from elm_mlx.config.rope import RopeConfig
from elm_mlx.config.values import CONFIG, Values
from elm_mlx.errors import BadCheckpoint

__all__ = [
    "HEAD_NAME", "BitNetConfig", "GuestConfig", "LlamaConfig", "ModelConfig", "OpenELMConfig", "RopeConfig", "Shape",
    "config_from_dict", "config_or_guest", "names_guest",
]  # fmt: skip

Config = OpenELMConfig | LlamaConfig
FAMILIES: dict[str, type[OpenELMConfig] | type[LlamaConfig]] = {  # by model_type
    OpenELMConfig.family: OpenELMConfig,
    LlamaConfig.family: LlamaConfig,
    MOBILELLM: LlamaConfig,
    MOBILLAMA: LlamaConfig,
    BitNetConfig.family: BitNetConfig,
}


def config_from_dict(raw: Mapping[str, Any], where: str = CONFIG) -> Config:
    """The configuration for a parsed config.json, by its `model_type`; errors call the file `where`.

    Raises Unsupported for a family that elm-mlx does not run, BadCheckpoint for impossible values.
    """
    model_type = raw.get("model_type")
    if model_type is None:
        raise BadCheckpoint(f"{where} has no model_type, so it is no model's configuration. Fetch it again.")
    if model_type == "mistral":  # Llama's architecture, but for a window that is there unless switched off
        raw, model_type = {"sliding_window": MISTRAL_WINDOW, **raw}, LlamaConfig.family
    values = Values(raw, where)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise values.unsupported("model_type", model_type, FAMILIES)
    return FAMILIES[model_type].from_values(values)


def config_or_guest(raw: Mapping[str, Any], where: str = CONFIG) -> ModelConfig:
    """The configuration for a parsed config.json of our own families, or of a guest: of any other family, which mlx-lm
    may run. Raises as `config_from_dict`, and MissingBackend where mlx-lm is not installed."""
    return GuestConfig.from_values(Values(raw, where)) if names_guest(raw) else config_from_dict(raw, where)


def names_guest(raw: Mapping[str, Any]) -> bool:
    """Whether a parsed config.json names a family that is none of ours."""
    model_type = raw.get("model_type")
    return isinstance(model_type, str) and model_type not in (*FAMILIES, "mistral")
