"""Every type of GGUF's tensors reads as the gguf package reads it, and MLX keeps the same numbers in few bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from helpers import gguf_craft as craft

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.gguf.header import StoredTensor
from elm_mlx.convert.gguf.kinds import KINDS
from elm_mlx.convert.gguf.tensors import Rows, join, measure_cast, plain, read_packed, setting_kept

BY_NAME = {kind.name: kind for kind in KINDS.values()}
SHAPE = (12, 512)
FLOAT16_LOSS = 4e-4  # of scales that are products of a float16 and six bits; measured 2e-4 on drawn blocks
ROUNDED_LOSS = 6e-3  # of Q6_K in 8 bits; measured 4.5e-3 on drawn blocks


def tensor(kind: str, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[StoredTensor, np.ndarray]:
    """A tensor of drawn blocks, and what the gguf package reads."""
    data = craft.drawn(kind, shape, seed)
    return StoredTensor(shape, BY_NAME[kind], memoryview(data.tobytes())), craft.values(data, kind)


def numbers(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def expanded(parts: list[StoredTensor], dtype: mx.Dtype = mx.float32) -> np.ndarray:
    """What MLX has in few bits, with scales of this type, as numbers."""
    setting = setting_kept(parts)
    assert setting
    packed = read_packed([Rows(part) for part in parts], setting.bits)
    scales, biases = (packed[name].astype(dtype).astype(mx.float32) for name in ("scales", "biases"))
    return np.array(mx.dequantize(packed["weight"], scales, biases, setting.group_size, setting.bits))


def loss(found: np.ndarray, there: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - there).mean() / np.square(there).mean()))


@pytest.mark.parametrize("kind", sorted(BY_NAME))
def test_values_are_those_of_the_gguf_package(kind: str) -> None:
    stored, there = tensor(kind)
    read = plain(stored)
    assert np.array_equal(numbers(read.read()), there)
    assert np.array_equal(np.concatenate([numbers(rows) for rows in read.blocks(5)]), there)


@pytest.mark.parametrize("kind", sorted(set(craft.QUANTIZED) - {"Q6_K"}))
def test_the_bits_that_mlx_keeps_give_the_same_values(kind: str) -> None:
    stored, there = tensor(kind)
    assert np.array_equal(expanded([stored]), there)
    lost = loss(expanded([stored], mx.float16), there)
    assert lost < FLOAT16_LOSS if kind.endswith("K") else lost == 0


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q5_1", "Q8_0"])
def test_the_loss_is_measured_by_groups_as_by_numbers(kind: str, dtype: mx.Dtype) -> None:
    stored, there = tensor(kind)
    wrong, whole = measure_cast([Rows(stored)], dtype)
    gap = expanded([stored], dtype).astype(np.float64) - there
    assert wrong == pytest.approx(np.square(gap).sum(), rel=1e-3)
    assert whole == pytest.approx(np.square(there.astype(np.float64)).sum(), rel=1e-5)


def test_q6_k_is_kept_in_eight_bits_with_a_small_loss() -> None:
    stored, there = tensor("Q6_K")
    assert setting_kept([stored]) == Quantization(8, 32)
    assert loss(expanded([stored], mx.float16), there) < ROUNDED_LOSS


@pytest.mark.parametrize(("first", "second"), [("Q4_K", "Q5_0"), ("Q4_0", "Q8_0"), ("Q5_K", "Q8_0"), ("Q4_1", "Q4_K")])
def test_two_matrices_of_different_bits_become_one_without_loss(first: str, second: str) -> None:
    (a, here), (b, there) = tensor(first, seed=1), tensor(second, seed=2)
    both = np.concatenate([here, there])
    assert np.array_equal(expanded([a, b]), both)
    joined = join([plain(a), plain(b)])
    assert joined.shape == (24, 512)
    assert np.array_equal(numbers(joined.read()), both)
    assert np.array_equal(np.concatenate([numbers(rows) for rows in joined.blocks(7)]), both)


def test_floats_beside_few_bits_are_not_kept_in_few_bits() -> None:
    (a, here), (b, there) = tensor("Q8_0", seed=1), tensor("F16", seed=2)
    assert setting_kept([a, b]) is None
    joined = join([plain(a), plain(b)])
    assert np.array_equal(numbers(joined.read()), np.concatenate([here, there]))
    assert {rows.dtype for rows in joined.blocks(7)} == {joined.read().dtype} == {joined.dtype}


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_K"])
def test_rows_in_pairs_come_in_halves(kind: str) -> None:
    stored, there = tensor(kind)
    heads = 2
    halves = there.reshape(heads, 3, 2, -1).swapaxes(1, 2).reshape(SHAPE)
    read = plain(stored, heads)
    assert np.array_equal(numbers(read.read()), halves)
    assert np.array_equal(np.concatenate([numbers(rows) for rows in read.blocks(5)]), halves)
    assert np.array_equal(craft.in_pairs(halves, heads), there)
    if kind == "Q4_K":
        packed = read_packed([Rows(stored, heads)], 4)
        assert np.array_equal(np.array(mx.dequantize(*packed.values(), 32, 4)), halves)


def test_a_vector_in_few_bits_is_read_too() -> None:
    stored, there = tensor("Q8_0", (512,))
    assert np.array_equal(numbers(plain(stored).read()), there)
    assert setting_kept([stored]) is None
