"""Tiny checkpoints in few bits, as a conversion writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from helpers import checkpoints

from elm_mlx.config import config_from_dict
from elm_mlx.store.stored_form import quantize


def write(
    folder: Path, raw: dict[str, Any], setting: dict[str, Any], *, shards: int = 1, tokenizer: bool = False
) -> Path:
    """Writes a directory whose matrices are quantized as `setting`, mlx-lm's object, says."""
    config = config_from_dict(raw | {"quantization": setting})
    assert config.quantization
    arrays: dict[str, mx.array] = {}
    for name, weight in checkpoints.weights(raw).items():
        arrays |= quantize(name, mx.array(weight), config.quantization.of(name, weight.shape))
    checkpoints.write(folder, raw, tokenizer=tokenizer)
    (folder / "config.json").write_text(json.dumps(raw | {"quantization": setting}), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    checkpoints.save(folder, arrays, shards)
    return folder
