"""Random weights of published shapes: the right shapes, in both programs' layout, and nothing left behind."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from helpers import checkpoints

import elm_mlx
from elm_mlx.bench.facts import weights_fingerprint
from elm_mlx.bench.random_model import random_model
from elm_mlx.bench.shapes import NARROW, SHAPES
from elm_mlx.config import config_from_dict
from elm_mlx.device import memory as machine
from elm_mlx.errors import DiskFull, NotEnoughMemory

PUBLISHED = checkpoints.PUBLISHED


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in NARROW])
def test_a_shape_is_the_published_one(shape: str) -> None:
    family, size = shape.split("-", 1)
    ours, published = config_from_dict(SHAPES[shape]), config_from_dict(PUBLISHED[family][size]["config"])
    assert ours.weight_shapes() == published.weight_shapes()
    for name in ("num_heads", "num_kv_heads", "head_dim", "tied", "rope", "norm_eps", "vocab_size"):
        assert getattr(ours, name) == getattr(published, name)


@pytest.mark.parametrize("shape", list(NARROW))
@pytest.mark.parametrize(
    ("how", "dtype", "least", "most"),
    [
        ({}, "float32", 32, 32),
        ({"dtype": "bfloat16"}, "bfloat16", 16, 16),
        ({"bits": 4}, "float32", 4, 10),  # rows that 64 does not divide stay as they are
    ],
    ids=str,
)
def test_it_loads_as_it_was_asked_for(shape: str, how: dict[str, Any], dtype: str, least: int, most: int) -> None:
    with random_model(shape, **how) as folder:
        info, done = elm_mlx.info(folder), elm_mlx.load(folder).generate([1, 2, 3], 4, temperature=0)
        same = weights_fingerprint(folder)
    assert info.dtype == dtype
    assert least <= info.bits_per_weight <= most
    assert (info.quantization or {}).get("bits") == how.get("bits")
    assert len(done.tokens) == 4
    assert not folder.exists()
    with random_model(shape, **how) as again:
        assert weights_fingerprint(again) == same


def test_it_stops_at_no_token_and_tells_tokens_apart() -> None:
    with random_model("llama-16x64") as folder:
        lm = elm_mlx.load(folder)
        logits = lm.logits(range(40))
    assert lm.config.eos_token_ids == ()
    assert 0.5 < float(logits.std()) < 2
    assert len(set(logits.argmax(axis=-1).tolist())) > 10


def test_what_does_not_fit_is_refused_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 10**9)
    with pytest.raises(NotEnoughMemory, match="llama-3-8b takes"), random_model("llama-3-8b"):
        pass
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    with (
        pytest.raises(DiskFull, match=r"llama-3-8b needs 16 GB of disk, and .* TMPDIR"),
        random_model("llama-3-8b", force=True),
    ):
        pass
