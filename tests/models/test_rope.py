"""Angles that are made once for all layers rotate as MLX's own call does in each."""

from __future__ import annotations

import mlx.core as mx
import pytest

from elm_mlx.config import RopeConfig
from elm_mlx.models import rope
from elm_mlx.models.rope import Offset, Rotation

ROPES = {
    "default": RopeConfig(10_000.0),
    "linear": RopeConfig(10_000.0, "linear", 4.0),
    "llama3": RopeConfig(500_000.0, "llama3", 8.0, 1.0, 4.0, 8192),
}


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("offset", [0, 7, 131_000, mx.array(7), mx.array([3, 100_000, -2])], ids=str)
@pytest.mark.parametrize("count", [1, 5])
def test_angles_rotate_as_the_offset_does(name: str, offset: Offset, count: int) -> None:
    rotate = Rotation(ROPES[name], 64)
    x = mx.random.normal((3, 4, count, 64), key=mx.random.key(0))
    assert mx.allclose(rotate(x, rotate.angles(offset, count)), rotate(x, offset), atol=1e-6).item()


def test_angles_are_made_only_where_mlx_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    rotate = Rotation(ROPES["default"], 64)
    for has_kernels, dtype, made in ((False, mx.float32, True), (False, mx.bfloat16, False), (True, mx.float32, False)):
        monkeypatch.setattr(rope, "has_fast_kernels", lambda has=has_kernels: has)
        assert isinstance(rotate.prepare(7, 1, dtype), tuple) is made
