"""Writes what was trained as an adapter in mlx-lm's layout: adapters.safetensors and adapter_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from elm_mlx.files import disk_errors, write_whole
from elm_mlx.train.checkpoint import write_tensors
from elm_mlx.train.trainable import DORA, LORA, AdapterArrays, Arrays

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
BASE, BASE_WEIGHTS = "base", "base_weights"  # in the metadata


def write_adapter(
    directory: Path, arrays: Arrays, adapter: AdapterArrays, base: Mapping[str, str], num_layers: int
) -> None:
    """Writes both files, each whole or not at all; `base` is the metadata that says which model it belongs to. Raises
    DiskFull, ElmError."""
    write_tensors(directory / WEIGHTS, arrays, {"format": "mlx", **base})
    shape = adapter.shape
    names = {name.split(".", len(adapter.model.LAYERS.split(".")) + 1)[-1]
             for place in adapter.places for name in place.names if shape.has(name)}  # fmt: skip
    facts = {
        "fine_tune_type": DORA if shape.dora else LORA,
        "num_layers": shape.layers or num_layers,
        "lora_parameters": {"rank": shape.rank, "scale": shape.scale, "dropout": 0.0, "keys": sorted(names)},
        "model": base.get(BASE),
    }
    with disk_errors(f"{directory} cannot be written"):
        write_whole(directory / CONFIG, json.dumps(facts, indent=2) + "\n")
