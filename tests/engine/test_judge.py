"""Judging draws what plain decoding draws: the same ids, and so the model's distribution whatever was proposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from elm_mlx.config.generation import Sampling
from elm_mlx.engine.judge import Judged, count_equal, judge, with_last
from elm_mlx.engine.sampling import Sampler

DRAWS = 2000
LIMIT = 27.9  # of chi-square with 6 degrees of freedom, which one of 10,000 correct samplers exceeds
FIRST, SECOND = [0.5, 0.25, 0.15, 0.1], [0.1, 0.2, 0.3, 0.4]


class Fixed:
    """A model whose logits depend on the place alone."""

    def hidden(self, ids: mx.array, _cache: Any) -> mx.array:
        return ids

    def last_hidden(self, ids: mx.array, _cache: Any) -> mx.array:
        return ids

    def few_hidden(self, ids: mx.array, _cache: Any) -> mx.array:
        return ids

    def head(self, _states: mx.array) -> mx.array:
        return mx.log(mx.array([[FIRST, SECOND]]))


class KeyUsedAgain(Sampler):
    """A sampler that draws everything with one key."""

    def __call__(self, logits: mx.array) -> mx.array:
        key = self.key
        drawn = super().__call__(logits)
        self.key = key
        return drawn


def drawn_with(kind: type[Sampler], proposal: int) -> list[Judged]:
    return [judge(Fixed(), [], kind(Sampling(1.0), seed), with_last(0, [proposal])) for seed in range(DRAWS)]


def chi_square(found: Counter[Any], expected: dict[Any, float]) -> float:
    return float(sum((found[key] - DRAWS * share) ** 2 / (DRAWS * share) for key, share in expected.items()))


def statistic(judged: Sequence[Judged], proposal: int) -> float:
    """Chi-square of what an answer gets: another id than the proposal, or the proposal and the id after it."""
    found = Counter((one.ids[0], one.ids[1] if one.right else None) for one in judged)
    wrong = {(token, None): share for token, share in enumerate(FIRST) if token != proposal}
    right = {(proposal, token): FIRST[proposal] * share for token, share in enumerate(SECOND)}
    assert set(found) <= set(wrong | right)
    return chi_square(found, wrong | right)


@pytest.mark.parametrize("proposal", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_an_answer_has_the_distribution_of_the_model_whatever_is_proposed(proposal: int) -> None:
    assert statistic(drawn_with(Sampler, proposal), proposal) < LIMIT


def test_a_sampler_that_uses_a_key_twice_is_found_out() -> None:
    assert statistic(drawn_with(KeyUsedAgain, 0), 0) > LIMIT


def test_the_states_are_those_of_plain_draws() -> None:
    one, other = Sampler(Sampling(1.0), 5), Sampler(Sampling(1.0), 5)
    judged = judge(Fixed(), [], one, with_last(0, mx.array([1], mx.uint32)))
    for place, state in enumerate(judged.states):
        token = other(mx.log(mx.array([[FIRST, SECOND][place]])))
        assert token.item() == judged.ids[place]
        assert np.array_equal(state.key, other.key)
    assert judged.peaks == pytest.approx([np.log(0.5), np.log(0.4)])


def test_proposals_are_right_up_to_the_first_that_is_not() -> None:
    assert count_equal([1, 2, 3], [1, 2, 3, 4]) == 3
    assert count_equal([1, 2, 3], [1, 9, 3, 4]) == 1
    assert count_equal([1], [2, 1]) == 0
