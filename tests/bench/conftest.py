"""The programs in benchmarks/ are scripts, not a package: their tests import them from where they lie."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import pytest
from helpers.shallow import openelm

__all__ = ["openelm"]  # of two layers

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

if TYPE_CHECKING:
    import tape


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tape.Recorder]:
    """The ledger's stand-ins, in this process until the test ends."""
    import tape

    device = mx.default_device()
    for place, names in {mx: ("compile", "contiguous", "dequantize", "quantized_matmul"),
                         mx.array: ("__matmul__",),
                         mx.fast: ("rms_norm", "rope", "scaled_dot_product_attention")}.items():  # fmt: skip
        for name in names:
            monkeypatch.setattr(place, name, getattr(place, name))
    yield tape.install()
    mx.set_default_device(device)
