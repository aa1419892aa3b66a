"""Matrices are rounded for their inputs: as a slow twin does it, and never worse than plain rounding does."""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.config.quantization import Quantization
from elm_mlx.convert.calibrate.compensate import Rounded, compensate
from elm_mlx.convert.calibrate.descend import descend
from elm_mlx.convert.calibrate.grid import Grid, Scales, grid_of
from elm_mlx.convert.calibrate.moments import Moments, moments_of
from elm_mlx.convert.calibrate.rounding import read_back, round_matrix
from elm_mlx.errors import NotFinite
from elm_mlx.store.stored_form import quantize

SETTINGS = [Quantization(bits, size) for bits, size in [(2, 32), (3, 64), (4, 64), (5, 32), (6, 128), (8, 32)]]
FLOAT_MODES = [Quantization(4, 32, "mxfp4"), Quantization(8, 32, "mxfp8"), Quantization(4, 16, "nvfp4")]
QUICK = [SETTINGS[1], FLOAT_MODES[0]]
EVERY = [*QUICK, *(pytest.param(how, marks=pytest.mark.slow) for how in [*SETTINGS, *FLOAT_MODES] if how not in QUICK)]


def example(columns: int, rows: int, inputs: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Weights [C, R], and the moments of correlated inputs, two of which are always zero."""
    rng = np.random.default_rng(columns + rows)
    x = rng.normal(size=(inputs, columns)) @ rng.normal(size=(columns, columns)) / columns**0.5
    x[:, [3, 9]] = 0
    return rng.normal(size=(columns, rows)).astype(np.float32), (x.T @ x).astype(np.float32)


def slow_twin(weights: np.ndarray, cost: np.ndarray, grid: Grid) -> Rounded:
    """GPTQ as it is told: column by column, with the inverse of what is left of the moments, and no blocks at all."""
    left, size = weights.astype(np.float64), grid.setting.group_size
    rest = np.linalg.inv(cost.astype(np.float64))
    factor = np.linalg.cholesky(rest).T
    codes, groups = np.empty(weights.shape, np.uint8), []
    for j in range(len(weights)):
        if j % size == 0:
            group = left[j : j + size].astype(np.float32)
            groups.append(grid.fit(group, factor.diagonal()[j : j + size].astype(np.float32) ** -2))
        codes[j] = grid.nearest(left[j].astype(np.float32), groups[-1])
        error = left[j] - grid.values(codes[j], groups[-1])
        left -= np.outer(rest[j] / rest[j, j], error)
        rest -= np.outer(rest[:, j], rest[j]) / rest[j, j]
        rest[j, j] = 1  # done with: the other entries of its row are zero
    return Rounded(codes, Scales.join(groups))


@pytest.mark.parametrize("shape", [(128, 1), pytest.param((256, 40), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("setting", EVERY, ids=str)
def test_a_matrix_is_rounded_as_the_slow_twin_rounds_it(setting: Quantization, shape: tuple[int, int]) -> None:
    weights, plain = example(*shape)
    grid, moments = grid_of(setting, mx.bfloat16), Moments(plain)
    ours, twin = compensate(weights, moments, grid), slow_twin(weights, moments.cost, grid)
    same = (ours.codes == twin.codes).all(0)
    assert same.mean() >= 0.9, "a near tie may fall to either side, and the rest of its row with it"
    assert np.allclose(ours.scales.step[:, same], twin.scales.step[:, same], rtol=0.01)
    errors = [moments.lost(weights - each.values(grid)).sum() for each in (ours, twin)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


@pytest.mark.parametrize("setting", EVERY, ids=str)
def test_each_sweep_of_the_descent_loses_less(setting: Quantization) -> None:
    weights, plain = example(128, 10)
    grid, moments = grid_of(setting, mx.bfloat16), Moments(plain)
    lost = []
    rounded = compensate(weights, moments, grid)
    for _ in range(4):
        errors = weights - rounded.values(grid)
        lost.append((errors * (moments.cost @ errors)).sum(0))
        rounded = descend(weights, moments, rounded, grid, 1)
    for before, after in pairwise(lost):
        assert (after <= before * 1.0001).all()
    assert lost[1].sum() < lost[0].sum()


def rounded(weight: mx.array, moments: Moments, setting: Quantization) -> mx.array:
    """A weight [R, C] as it is read after it was rounded for its inputs."""
    return read_back("a.weight", round_matrix("a.weight", [weight], moments, setting, mx.bfloat16), setting)


def lost_by_rounding(weight: mx.array, moments: Moments, setting: Quantization) -> np.ndarray:
    """What each row of a weight [R, C] loses by plain rounding."""
    plain = quantize("a.weight", weight.astype(mx.bfloat16), setting)
    return moments.lost(np.array(weight - read_back("a.weight", plain, setting)).T)


def loses_no_more(setting: Quantization, seed: int, inputs: int, spread: float) -> None:
    """Checks that no row of a random matrix loses more than by plain rounding."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(inputs, 128)) * rng.lognormal(size=128, sigma=2)).astype(np.float32)
    weight = mx.array((spread * rng.standard_t(2, size=(6, 128))).astype(np.float32))
    moments = Moments(x.T @ x)
    read = rounded(weight, moments, setting)
    assert np.isfinite(np.array(read)).all()
    bound = lost_by_rounding(weight, moments, setting)
    assert (moments.lost(np.array(weight - read).T) <= bound + 1e-6 * abs(bound)).all()


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_no_row_ever_loses_more_than_by_rounding(count: int) -> None:
    check = given(
        setting=st.sampled_from([*SETTINGS, *FLOAT_MODES]),
        seed=st.integers(0, 2**32 - 1),
        inputs=st.sampled_from([1, 5, 200]),
        spread=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    )(loses_no_more)
    settings(max_examples=count)(check)()


def test_a_rounded_matrix_loses_far_less_where_inputs_are_correlated() -> None:
    weights, plain = example(128, 16)
    weight, moments = mx.array(weights.T), Moments(plain)
    for setting, share in zip(SETTINGS[:3], (0.4, 0.4, 0.4), strict=True):
        read = rounded(weight, moments, setting)
        assert moments.lost(np.array(weight - read).T).sum() < share * lost_by_rounding(weight, moments, setting).sum()


@pytest.mark.parametrize("setting", [SETTINGS[1], FLOAT_MODES[2]], ids=str)
def test_blocks_of_rows_make_one_matrix_and_the_same_each_time(setting: Quantization) -> None:
    weights, plain = example(128, 14)
    weight, moments = mx.array(weights.T), Moments(plain)
    parts, again = (
        round_matrix("a.weight", mx.split(weight, [6, 12]), moments, setting, mx.bfloat16) for _ in range(2)
    )
    assert all(mx.array_equal(array, again[part]) for part, array in parts.items())
    errors = [
        moments.lost(np.array(weight - read).T).sum()
        for read in (read_back("a.weight", parts, setting), rounded(weight, moments, setting))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_a_row_whose_squares_are_no_floats_is_rounded_plainly() -> None:
    weights, plain = example(128, 2)
    weights[:, 1] *= 1e25
    moments = Moments(plain)
    parts = round_matrix("a.weight", [mx.array(weights.T)], moments, SETTINGS[1], mx.bfloat16)
    rounded_plainly = quantize("a.weight", mx.array(weights.T).astype(mx.bfloat16), SETTINGS[1])
    for part, array in parts.items():
        assert mx.array_equal(array[1], rounded_plainly[part][1])
    assert not mx.array_equal(parts["a.weight"][0], rounded_plainly["a.weight"][0])


def test_inputs_that_are_always_zero_lead_to_plain_numbers() -> None:
    weights, _ = example(64, 8)
    read = rounded(mx.array(weights.T), Moments(np.zeros((64, 64), np.float32)), SETTINGS[2])
    assert np.abs(np.array(read).T - weights).max() < 0.5


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15])
def test_the_size_of_the_inputs_does_not_matter(size: float) -> None:
    x = np.random.default_rng(0).normal(size=(1, 200, 64)).astype(np.float32)
    same, other = (moments_of([mx.array(x * np.float32(factor))], ["a.weight"]) for factor in (1, size))
    assert np.isfinite(other.factor).all()
    if size > 1e-20:
        assert np.allclose(same.cost, other.cost, rtol=1e-4, atol=1e-4)


def test_few_inputs_move_less_than_many() -> None:
    weights, plain = example(128, 16)
    far = []
    for count in (1, 100, 100_000):
        read = rounded(mx.array(weights.T), Moments(plain, count), SETTINGS[2])
        far.append(np.square(np.array(read).T - weights).sum())
    assert far == sorted(far)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_inputs_without_finite_moments_are_refused_by_name(bad: float) -> None:
    with pytest.raises(NotFinite, match=r"what goes into a\.weight and b\.weight is NaN or infinite"):
        moments_of(iter([mx.full((1, 4, 32), bad)]), ["a.weight", "b.weight"])
