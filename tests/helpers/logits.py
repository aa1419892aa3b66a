"""Logits of a model as the engine computes them, to compare those of several ranks with those of one machine."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from helpers import checkpoints

from elm_mlx.config import ModelConfig
from elm_mlx.device.execution import Execution
from elm_mlx.engine.cache.making import new_cache
from elm_mlx.engine.decodes import Decodes
from elm_mlx.store.load import load_model


def logits_of(model: Decodes, layers: int) -> list[np.ndarray]:
    """Logits of a prompt, of steps after it, and of a few ids at once, for two rows."""
    ids = mx.array([checkpoints.prompt(20), checkpoints.prompt(20, seed=2)])
    cache = new_cache(model, layers, 40)
    found = [model.head(model.last_hidden(ids[:, :9], cache))]
    found += [model.head(model.last_hidden(ids[:, n : n + 1], cache)) for n in range(9, 12)]
    found += [model.head(model.few_hidden(ids[:, 12:15], cache)), model.head(model.hidden(ids[:, 15:], cache))]
    mx.eval(found)
    return [np.array(one.astype(mx.float32)) for one in found]


def whole(directory: Path, config: ModelConfig) -> list[np.ndarray]:
    model = load_model(directory, config, Execution(compiled=False), None, True)
    return logits_of(model, config.num_layers)
