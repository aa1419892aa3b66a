"""The setting of Llama 3's RoPE scaling is found by the factors that llama.cpp's converter writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import checkpoints
from helpers import gguf_craft as craft

from elm_mlx.config import config_from_dict
from elm_mlx.config.values import Values
from elm_mlx.convert.gguf.header import StoredTensor
from elm_mlx.convert.gguf.kinds import KINDS
from elm_mlx.convert.gguf.rope import scaling
from elm_mlx.errors import BadCheckpoint, Unsupported


def stored(factors: np.ndarray) -> dict[str, StoredTensor]:
    data = factors.astype("<f4")
    return {"rope_freqs.weight": StoredTensor(data.shape, KINDS[0], memoryview(data.tobytes()))}


def values(**keys: Any) -> Values:
    return Values({name.replace("__", "."): value for name, value in keys.items()}, "x.gguf")


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (16.0, 4096), (8.0, 32)])
def test_factors_give_the_setting_back(factor: float, original: int, head_dim: int) -> None:
    said = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original}  # fmt: skip
    raw = checkpoints.LLAMA | {"head_dim": head_dim, "rope_theta": 500_000.0, "rope_scaling": said}
    found = scaling(values(rope__freq_base=500_000.0), stored(craft.rope_factors(config_from_dict(raw))), head_dim)
    assert found == said


def test_other_kinds_of_scaling() -> None:
    assert scaling(values(), {}, 64) is None
    assert scaling(values(), stored(np.ones(32)), 64) is None
    assert scaling(values(rope__scaling__type="none", rope__scaling__factor=2.0), {}, 64) is None
    linear = {"rope_type": "linear", "factor": 4.0}
    assert scaling(values(rope__scaling__type="linear", rope__scaling__factor=4.0), {}, 64) == linear
    assert scaling(values(rope__scale_linear=4.0), {}, 64) == linear


@pytest.mark.parametrize(
    "factors", [np.zeros(32), np.full(32, np.nan), np.full(32, -1.0), np.full(32, 1e9), np.ones(31)]
)
def test_what_are_no_factors_is_damage(factors: np.ndarray) -> None:
    with pytest.raises(BadCheckpoint, match=r"rope_freqs\.weight"):
        scaling(values(), stored(factors), 64)


def test_factors_of_another_scaling_are_refused() -> None:
    with pytest.raises(Unsupported, match="Llama 3's scaling"):
        scaling(values(), stored(np.linspace(1, 9, 32)), 64)
