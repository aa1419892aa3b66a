"""Low-rank sums beside products equal a matrix that the sum was added to, whatever the matrix is stored in."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest

from elm_mlx.config.quantization import Quantization
from elm_mlx.models.lora import Adapted, LowRank
from elm_mlx.models.matrices import Linear, Product, QuantizedLinear, SideBySide

INPUTS, WIDTHS, RANK, SCALE = 64, (48, 16, 32), 3, 2.0
ROWS = sum(WIDTHS)
SETTING = Quantization(bits=4, group_size=32, mode="affine")


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def plain() -> tuple[Product, mx.array]:
    weight = normal(0, ROWS, INPUTS)
    return Linear(weight), weight


def quantized() -> tuple[Product, mx.array]:
    arrays = mx.quantize(normal(0, ROWS, INPUTS), 32, 4)
    return QuantizedLinear(arrays, SETTING, mx.float32), mx.dequantize(*arrays, 32, 4)


def mixed() -> tuple[Product, mx.array]:
    """Joined matrices of which one is quantized."""
    first, last = normal(0, WIDTHS[0] + WIDTHS[1], INPUTS), mx.quantize(normal(1, WIDTHS[2], INPUTS), 32, 4)
    product = SideBySide([Linear(first), QuantizedLinear(last, SETTING, mx.float32)])
    return product, mx.concatenate([first, mx.dequantize(*last, 32, 4)])


def low_ranks(*, lengths: bool) -> list[LowRank | None]:
    """Sums beside the first and the last of three matrices."""
    made: list[LowRank | None] = [
        LowRank(normal(10 + i, INPUTS, RANK), normal(20 + i, RANK, O), mx.abs(normal(30 + i, O)) if lengths else None)
        for i, O in enumerate(WIDTHS)
    ]
    made[1] = None
    return made


def merged(weight: mx.array, adapters: list[LowRank | None]) -> mx.array:
    """The matrix that has the sums in it, by the papers' formulas: [O, I]."""
    parts = []
    for one, rows in zip(adapters, mx.split(weight, [WIDTHS[0], WIDTHS[0] + WIDTHS[1]]), strict=True):
        summed = rows + SCALE * (one.a @ one.b).T if one else rows
        if one and one.m is not None:
            summed = summed * (one.m / mx.stop_gradient(mx.linalg.norm(summed, axis=1)))[:, None]
        parts.append(summed)
    return mx.concatenate(parts)


BASES = pytest.mark.parametrize("base", [plain, quantized, mixed])
LENGTHS = pytest.mark.parametrize("lengths", [False, True], ids=["lora", "dora"])


@BASES
@LENGTHS
def test_a_sum_beside_a_product_equals_the_sum_within_it(
    base: Callable[[], tuple[Product, mx.array]], lengths: bool
) -> None:
    product, weight = base()
    adapted, x = Adapted(product, WIDTHS, SCALE), normal(2, 2, 5, INPUTS)
    adapted.adapters = low_ranks(lengths=lengths)
    assert mx.allclose(adapted(x), x @ merged(weight, adapted.adapters).T, rtol=1e-4, atol=1e-3)


@BASES
@LENGTHS
def test_gradients_are_those_of_the_sum_within_the_matrix(
    base: Callable[[], tuple[Product, mx.array]], lengths: bool
) -> None:
    product, weight = base()
    adapted, x = Adapted(product, WIDTHS, SCALE), normal(2, 7, INPUTS)
    target = normal(3, 7, ROWS)
    begun = low_ranks(lengths=lengths)
    first = begun[0]
    assert first is not None
    arrays = {"a": first.a, "b": first.b} | ({"m": first.m} if lengths else {})

    def beside(arrays: dict[str, mx.array]) -> mx.array:
        adapted.adapters = [LowRank(**arrays), *begun[1:]]
        return mx.square(adapted(x) - target).mean()

    def within(arrays: dict[str, mx.array]) -> mx.array:
        return mx.square(x @ merged(weight, [LowRank(**arrays), *begun[1:]]).T - target).mean()

    ours, theirs = mx.grad(beside)(arrays), mx.grad(within)(arrays)
    for name in arrays:
        assert mx.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4 * mx.abs(theirs[name]).max().item()), name


def test_a_matrix_without_a_sum_stays_as_it_is() -> None:
    product, _ = plain()
    adapted, x = Adapted(product, WIDTHS, SCALE), normal(2, 5, INPUTS)
    adapted.adapters = low_ranks(lengths=True)
    begin, end = WIDTHS[0], WIDTHS[0] + WIDTHS[1]
    assert mx.array_equal(adapted(x)[:, begin:end], product(x)[:, begin:end])
