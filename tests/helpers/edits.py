"""Changes to a checkpoint's files, and whether what they make is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.errors import BadCheckpoint

Edit = Callable[[dict[str, mx.array]], object]


def edit_config(folder: Path, **changes: Any) -> None:
    """Gives keys of config.json other values."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def edit_weights(folder: Path, edit: Edit, shards: int = 1) -> None:
    """Saves the weights again after `edit`."""
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    mx.eval(arrays)
    edit(arrays)
    (folder / "model.safetensors").unlink()
    checkpoints.save(folder, arrays, shards)


def refused(folder: Path, complaint: str, kind: type[Exception] = BadCheckpoint) -> None:
    """Loading and `info` refuse in the same words."""
    for call in (elm_mlx.load, elm_mlx.info):
        with pytest.raises(kind, match=complaint):
            call(folder)


def edit_index(folder: Path, edit: Callable[[dict[str, str]], object]) -> None:
    """Writes an index's places again after `edit`."""
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    edit(places)
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
