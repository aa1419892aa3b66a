"""The sampler draws from exactly the distribution that its options describe."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.engine.sampling import Sampler, Sampling, draw, keep_min_p
from elm_mlx.engine.top_p import keep_top_p
from elm_mlx.errors import InvalidRequest

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
LOGITS = mx.array(np.log(PROBABILITIES)[None])


def plain_filter(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """The slow, obvious twin: probabilities after temperature, top-k, top-p and min-p, in that order."""
    p = np.exp(logits / s.temperature - (logits / s.temperature).max())
    order = np.argsort(-p, kind="stable")
    keep = set(order[: s.top_k].tolist() if s.top_k else order.tolist())
    p = np.array([x if i in keep else 0.0 for i, x in enumerate(p)])
    p /= p.sum()
    mass, kept = 0.0, np.zeros_like(p)
    for i in order:
        if mass < s.top_p and p[i] > 0:
            kept[i] = p[i]
        mass += p[i]
    kept[kept < s.min_p * kept.max()] = 0
    return kept / kept.sum()


def drawn_counts(sampling: Sampling, count: int) -> np.ndarray:
    """How often each id is drawn."""
    ids = draw(mx.broadcast_to(LOGITS, (count, 5)), sampling, mx.random.split(mx.random.key(0), count))
    return np.bincount(np.array(ids), minlength=5)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.5),
        Sampling(2.0),
        Sampling(1.0, top_k=2),
        Sampling(1.0, top_k=1),
        Sampling(1.0, top_k=50),
        Sampling(1.0, top_p=0.7),
        Sampling(1.0, top_p=0.69),
        Sampling(1.0, top_p=0.01),
        Sampling(1.0, min_p=0.3),
        Sampling(1.0, min_p=1.0),
        Sampling(0.7, top_k=4, top_p=0.9, min_p=0.2),
    ],
    ids=str,
)
def test_shares_are_those_of_the_plain_filter(sampling: Sampling) -> None:
    expected = 20_000 * plain_filter(np.log(PROBABILITIES), sampling)
    drawn = drawn_counts(sampling, 20_000)
    kept = expected > 0
    assert not drawn[~kept].any()
    # Chi-square with at most 4 degrees of freedom, exceeded by chance once in a thousand
    assert ((drawn - expected)[kept] ** 2 / expected[kept]).sum() < 18.5


@settings(max_examples=150)
@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40, unique=True), st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_that_reach_the_share(values: list[float], top_p: float) -> None:
    kept = np.isfinite(np.array(keep_top_p(mx.array([values]), top_p))[0])
    p = np.exp(np.array(values) - max(values))
    p /= p.sum()
    assert p[kept].max() == p.max()
    assert p[kept].min() >= p[~kept].max(initial=0.0)  # a prefix of the sorted order
    assert p[kept].sum() >= top_p - 1e-5
    least = p[kept] <= p[kept].min() * (1 + 1e-6)  # ids that are equally likely are kept together
    assert p[kept][~least].sum() < top_p + 1e-5


def test_filters_treat_rows_alone() -> None:
    rows = mx.array([[0.0, 5.0, 1.0], [5.0, 0.0, 4.9]])
    assert np.isfinite(np.array(keep_top_p(rows, 0.5))).tolist() == [[False, True, False], [True, False, False]]
    assert np.isfinite(np.array(keep_min_p(rows, 0.5))).tolist() == [[False, True, False], [True, False, True]]


def test_temperature_zero_is_greedy_and_needs_no_key() -> None:
    sampler = Sampler(Sampling())
    before = sampler.key
    assert sampler(LOGITS).item() == 1
    assert sampler.key is before


@pytest.mark.parametrize("seed", [1.5, "3", [1], True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(InvalidRequest, match="seed"):
        Sampler(Sampling(1.0), seed)  # type: ignore[arg-type]


def test_numpys_numbers_are_numbers() -> None:
    options = Sampling(np.float32(0.5), top_k=np.int64(3), top_p=np.float64(0.9))  # type: ignore[arg-type]
    assert Sampler(options, np.int64(3))(LOGITS).item() == Sampler(options, 3)(LOGITS).item()  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [Sampling(1e-45), Sampling(1e-6), Sampling(1.0, top_p=5e-324)], ids=str)
def test_values_too_small_for_float32_mean_greedy_not_noise(sampling: Sampling) -> None:
    assert {Sampler(sampling, seed)(LOGITS).item() for seed in range(20)} == {1}


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 + 5])
def test_a_seed_reproduces_and_zero_is_one(seed: int) -> None:
    def draws(s: int | None) -> list[int]:
        sampler = Sampler(Sampling(1.0), s)
        return [int(sampler(mx.zeros((1, 1000))).item()) for _ in range(8)]

    assert draws(seed) == draws(seed)
    assert draws(seed) != draws(seed + 1)
    assert draws(None) != draws(None)


def test_requests_leave_mlx_own_random_state_alone() -> None:
    mx.random.seed(7)
    expected = mx.random.uniform(shape=(4,)).tolist()
    mx.random.seed(7)
    sampler = Sampler(Sampling(1.0), 3)
    for _ in range(5):
        sampler(LOGITS).item()
    assert mx.random.uniform(shape=(4,)).tolist() == expected


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"min_p": -0.1},
        {"min_p": 2.0},
        {"temperature": "1"},
        {"temperature": True},
        {"temperature": 10**400},
        {"top_k": math.inf},
        {"top_k": "50"},
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        Sampling(**options)  # type: ignore[arg-type]
