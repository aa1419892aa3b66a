"""What PyTorch computed for the tiny checkpoints, and the check that our models must pass.

`python tests/parity/make_goldens.py` writes the files; the parity suite computes them again and compares.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from helpers import checkpoints

from elm_mlx.engine.cache.kv import make_cache
from elm_mlx.engine.plain import generate
from elm_mlx.engine.sampling import Sampler, Sampling
from elm_mlx.models.model import Model

FOLDER = Path(__file__).parents[1] / "golden"
COLUMNS = slice(0, checkpoints.VOCAB, 8)  # every eighth logit of every position: enough, and an eighth of the bytes
NEW_TOKENS = 16
# A share of the largest logit. Two correct float32 implementations stay two orders of magnitude below this.
TOLERANCE = 2e-5


def load(name: str) -> tuple[np.ndarray, list[int]]:
    """(logits [L, V / 8], greedy ids) that PyTorch computed for the standard prompt."""
    with np.load(FOLDER / f"{name}.npz") as golden:
        return golden["logits"], golden["greedy"].tolist()


def assert_close(ours: mx.array, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Asserts that no logit differs by more than `tolerance` of the largest one."""
    difference = float(np.abs(np.array(ours.astype(mx.float32)) - theirs).max())
    assert difference <= tolerance * float(np.abs(theirs).max()), f"logits differ by {difference}"


def check(model: Model, name: str) -> None:
    """Asserts that a model gives the golden logits at every position, in one pass and in chunks of 7 through the cache,
    and the golden ids in greedy decoding."""
    logits, greedy = load(name)
    ids = mx.array([checkpoints.prompt()])
    assert_close(model(ids)[0, :, COLUMNS], logits)
    cache = make_cache(model.config.num_layers, ids.shape[1] + NEW_TOKENS)
    chunks = [model(ids[:, start : start + 7], cache) for start in range(0, ids.shape[1], 7)]
    assert_close(mx.concatenate(chunks, axis=1)[0, :, COLUMNS], logits)
    cache = make_cache(model.config.num_layers, ids.shape[1] + NEW_TOKENS)
    drawn = generate(model, checkpoints.prompt(), cache, Sampler(Sampling()), max_tokens=NEW_TOKENS)
    assert list(drawn) == greedy
