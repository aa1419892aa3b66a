"""Adapters as mlx-lm writes them: adapters.safetensors beside adapter_config.json.

Source: mlx_lm/tuner/{lora,dora,utils}.py 0.32.2. `<matrix>.lora_a` is [I, R], `.lora_b` [R, O], DoRA's `.m` [O]; the
scale multiplies the sum directly. The file of tensors also says, in its
metadata, what base the adapter is for, where elm-mlx has written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.config.base import ModelConfig
from elm_mlx.errors import BadCheckpoint, unsupported
from elm_mlx.store.adapters.adapter_file import CONFIG_FILE, AdapterFile, Base
from elm_mlx.store.adapters.arrays import Part, read_low_ranks
from elm_mlx.store.adapters.values import number_of, object_of, text_of
from elm_mlx.store.weights import read_metadata

WEIGHTS_FILE = "adapters.safetensors"
SUFFIXES = {".lora_a": "a", ".lora_b": "b", ".m": "m"}
KINDS = "lora", "dora"
BASE, BASE_WEIGHTS = "base", "base_weights"  # in the metadata


def read(directory: Path, facts: Mapping[str, Any], config: ModelConfig) -> AdapterFile:
    """Reads an adapter whose adapter_config.json says `facts`. Raises NotFound, BadCheckpoint, Unsupported, and
    InvalidRequest for one of another model."""
    where = directory / CONFIG_FILE
    kind = facts.get("fine_tune_type", "lora")
    if kind == "full":
        raise unsupported(f"{where}: fine_tune_type", kind, KINDS, "Its weights are those of a whole model: run "
                          "`mlx_lm.fuse`, and load what it writes.")  # fmt: skip
    if kind not in KINDS:
        raise unsupported(f"{where}: fine_tune_type", shown(kind), KINDS)
    settings = object_of(where, "lora_parameters", facts.get("lora_parameters"))
    if "alpha" in settings:
        raise BadCheckpoint(f"{where}: lora_parameters has an alpha, which old versions of mlx-lm divided by the rank. "
                            "Replace it by scale, the number that the sum is multiplied with.")  # fmt: skip
    scale = number_of(where, "lora_parameters.scale", settings.get("scale"))
    arrays = read_low_ranks(directory / WEIGHTS_FILE, config, part_of, False, lambda _: scale)
    return AdapterFile(directory, base_of(directory / WEIGHTS_FILE, facts.get("model")), arrays)


def part_of(name: str) -> Part | None:
    """Which part of which matrix a tensor is; None for one that is none."""
    for suffix, part in SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), part
    return None


def base_of(path: Path, name: Any) -> Base:
    """What an adapter says of its base: the metadata of its file of tensors, and the `name` in its configuration."""
    said = read_metadata(path)
    return Base(text_of(said.get(BASE)) or text_of(name), text_of(said.get(BASE_WEIGHTS)))
