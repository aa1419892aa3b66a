"""Exponentials by powers are those of MLX's own functions, and take their place only where these are slow."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from elm_mlx.device import exponential


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose exponentials are slow."""
    monkeypatch.setattr(exponential, "has_slow_exp", lambda: True)


def test_silu_is_that_of_sigmoid_from_end_to_end() -> None:
    x = mx.concatenate([20 * mx.random.normal((1000,), key=mx.random.key(0)), mx.array([-1e9, -200, -88, 0, 88, 1e9])])
    assert mx.allclose(exponential.silu(x), x * mx.sigmoid(x), rtol=1e-5, atol=1e-6).item()


def test_silu_has_a_gradient_where_its_power_is_no_number() -> None:
    def silu_by_sigmoid(x: mx.array) -> mx.array:
        return (x * mx.sigmoid(x)).sum()

    x = mx.array([-1e9, -1e4, -100.0, -80.0, -40.0, -3.0, 0.0, 2.0, 90.0])
    own = mx.grad(lambda x: exponential.silu(x).sum())(x)
    assert mx.allclose(own, mx.grad(silu_by_sigmoid)(x), rtol=1e-5, atol=1e-6).item()


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_powers_divided_by_their_sum_are_a_softmax(scale: float) -> None:
    scores = 30 * mx.random.normal((5, 40), key=mx.random.key(1))
    scores[1, 3:] = -math.inf
    scores[2, 0] = 1e30
    powers = exponential.softmax_powers(scores, scale)
    own = powers / powers.sum(axis=-1, keepdims=True)
    assert mx.allclose(own, mx.softmax(scale * scores, axis=-1), rtol=1e-4, atol=1e-7).item()


def test_powers_take_the_place_of_many_exponentials_in_float32_alone(
    slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exponential.is_slow(mx.float32, exponential.LEAST)
    assert not exponential.is_slow(mx.float32, exponential.LEAST - 1)
    assert not exponential.is_slow(mx.bfloat16, exponential.LEAST)
    monkeypatch.setattr(exponential, "has_slow_exp", lambda: False)
    assert not exponential.is_slow(mx.float32, exponential.LEAST)
