"""The grids of quantization: packed words and numbers are those of MLX."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from elm_mlx.config.quantization import QUANTIZATION_MODES, Quantization
from elm_mlx.convert.calibrate.grid import Scales, grid_of
from elm_mlx.convert.calibrate.packing import pack

SETTINGS = [
    Quantization(count, size, mode)
    for mode, (bits, sizes) in QUANTIZATION_MODES.items()
    for count in bits
    for size in sizes
]


def example(setting: Quantization) -> np.ndarray:
    """Weights [C, R] of four groups in five rows, one group of them zero."""
    weights = np.random.default_rng(setting.bits).normal(size=(4 * setting.group_size, 5)).astype(np.float32)
    weights[: setting.group_size, 2] = 0
    return weights


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """Codes [C, R] of words [R, W], bit by bit."""
    codes = []
    for row in words:
        number = sum(int(word) << (32 * i) for i, word in enumerate(row))
        codes.append([number >> (bits * i) & (2**bits - 1) for i in range(32 * len(row) // bits)])
    return np.array(codes, np.uint8).T


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_codes_are_packed_as_mlx_packs_them(setting: Quantization) -> None:
    words, *_ = mx.quantize(mx.array(example(setting).T), setting.group_size, setting.bits, setting.mode)
    codes = unpacked(np.array(words), setting.bits)
    assert np.array_equal(pack(codes, setting.bits), np.array(words))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32], ids=str)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_what_is_stored_is_read_as_the_grid_says(setting: Quantization, dtype: mx.Dtype) -> None:
    weights, size = example(setting), setting.group_size
    grid = grid_of(setting, dtype)
    scales = Scales.join([grid.fit(weights[i : i + size], np.ones(size)) for i in range(0, len(weights), size)])
    codes = grid.nearest(weights, scales.spread(len(weights)))
    words, *floats = grid.parts("a.weight", codes, scales).values()
    assert [each.dtype for each in floats] == ([dtype] * 2 if setting.mode == "affine" else [mx.uint8])
    floats = [each.astype(mx.float32) if setting.mode == "affine" else each for each in floats]
    read = mx.dequantize(words, *floats, group_size=size, bits=setting.bits, mode=setting.mode, dtype=mx.float32)
    assert np.allclose(np.array(read).T, grid.values(codes, scales.spread(len(weights))), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_grid_alone_is_no_worse_than_mlx(setting: Quantization) -> None:
    weights, size = example(setting), setting.group_size
    grid = grid_of(setting, mx.float32)
    scales = Scales.join([grid.fit(weights[i : i + size], np.ones(size)) for i in range(0, len(weights), size)])
    scales = scales.spread(len(weights))
    ours = grid.values(grid.nearest(weights, scales), scales)
    arrays = mx.quantize(mx.array(weights.T), size, setting.bits, setting.mode)
    theirs = np.array(mx.dequantize(*arrays, group_size=size, bits=setting.bits, mode=setting.mode, dtype=mx.float32)).T
    assert np.square(ours - weights).sum() <= np.square(theirs - weights).sum() * 1.0001
