"""What rounds cost is measured on the model itself, in turns, and leaves nothing behind."""

from __future__ import annotations

import pytest
from helpers import checkpoints
from helpers.engines import draft_of

import elm_mlx
from elm_mlx.engine import costs
from elm_mlx.engine.costs import Bench, is_too_early, measure_costs, rising


@pytest.mark.parametrize("source", ["openelm"], indirect=True)
@pytest.mark.parametrize("most", [0, 1, 4, 5])
def test_the_counts_that_are_used_have_a_cost(
    lm: elm_mlx.LanguageModel, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "SECONDS", 0)
    for draft in (None, draft_of(lm)):
        found = measure_costs(lm.model, lm.config.num_layers, most, draft)
        assert list(found) == [count for count in (1, 2, 3, 4, 6) if count <= most]
        assert all(cost > 0 for cost in found.values())


@pytest.mark.parametrize("source", checkpoints.FAMILIES, indirect=True)
def test_each_turn_begins_with_the_same_caches(lm: elm_mlx.LanguageModel) -> None:
    bench = Bench(lm.model, lm.config.num_layers, draft_of(lm))
    assert bench.proposer
    for _ in range(2):
        bench.steps()
        for count in (1, 6):
            bench.rounds(count)
            assert {layer.offset for layer in bench.cache + bench.proposer.cache} == {costs.DEPTH}


def test_a_slow_model_is_measured_in_few_turns_and_a_fast_one_for_a_while() -> None:
    assert is_too_early(1, 60.0)  # only that which compiles
    assert not is_too_early(2, 60.0)
    assert is_too_early(6, 3.9)
    assert not is_too_early(7, 3.9)
    assert is_too_early(700, 0.7)
    assert not is_too_early(700, 0.9)


def test_costs_that_fall_by_noise_get_their_mean() -> None:
    assert rising({1: 1.2, 2: 1.4, 3: 1.9}) == {1: 1.2, 2: 1.4, 3: 1.9}
    assert rising({1: 1.8, 2: 1.4, 3: 2.0, 4: 1.9}) == pytest.approx({1: 1.6, 2: 1.6, 3: 1.95, 4: 1.95})
    assert rising({1: 2.0, 2: 1.9, 3: 1.5}) == pytest.approx(dict.fromkeys((1, 2, 3), 1.8))
    assert rising({1: 0.8, 2: 0.9, 3: 1.6}) == {1: 1.0, 2: 1.0, 3: 1.6}
    assert rising({}) == {}
