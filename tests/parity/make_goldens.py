"""Computes the golden files with PyTorch and writes them: `python tests/parity/make_goldens.py` in the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch_models
from helpers import checkpoints, goldens


def compute(name: str) -> dict[str, np.ndarray]:
    """The golden arrays of one configuration."""
    raw = checkpoints.CONFIGS[name]
    model = torch_models.build(raw, checkpoints.weights(raw))
    ids = checkpoints.prompt()
    return {
        "logits": torch_models.logits(model, ids)[:, goldens.COLUMNS],
        "greedy": np.array(torch_models.greedy(model, ids, goldens.NEW_TOKENS)),
    }


if __name__ == "__main__":
    for config in checkpoints.CONFIGS:
        np.savez(goldens.FOLDER / f"{config}.npz", **compute(config))
