"""The gate proposes where it pays, by the numbers, and loses almost nothing where it cannot."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest

from elm_mlx.engine.gate import (
    CONFIRM,
    MARGIN,
    PROBE,
    PROBE_AFTER,
    PROBE_LATEST,
    Acceptance,
    Gate,
    WatchingGate,
    best_count,
    expected_ids,
)

SHARES = [place / 20 for place in range(21)]
# The times of rounds in plain steps: a small draft, one that is half the model, and free proposals on a chip where each
# row costs as much as a step.
CHEAP = {1: 1.25, 2: 1.4, 3: 1.6, 4: 1.8, 6: 2.2}
DEAR = {1: 1.7, 2: 2.3, 3: 3.0, 4: 3.7, 6: 5.0}
HOPELESS = {1: 2.1, 2: 3.2, 3: 4.3}
EACH = [CHEAP, DEAR, HOPELESS, {1: 1.1}, {}]


def test_the_expected_ids_are_those_of_drawn_rounds() -> None:
    rng = random.Random(0)
    for share, count in product((0.3, 0.8), (1, 4)):
        drawn = []
        for _ in range(4000):
            right = 0
            while right < count and rng.random() < share:
                right += 1
            drawn.append(right + 1)
        assert expected_ids(share, count) == pytest.approx(sum(drawn) / len(drawn), rel=0.05)


@pytest.mark.parametrize("costs", EACH, ids=str)
def test_the_best_count_has_the_most_ids_for_its_time(costs: dict[int, float]) -> None:
    for share in SHARES:
        best = best_count(share, costs)
        gain = expected_ids(share, best) / costs[best] if best else 1
        assert best == 0 or best in costs
        assert all(expected_ids(share, count) / cost <= max(gain, MARGIN) for count, cost in costs.items())


@pytest.mark.parametrize("costs", EACH, ids=str)
def test_more_acceptance_never_means_fewer_proposals(costs: dict[int, float]) -> None:
    counts = [best_count(share, costs) for share in SHARES]
    assert counts == sorted(counts)


def test_nothing_is_proposed_where_even_right_proposals_would_not_pay() -> None:
    gate = Gate(HOPELESS)
    assert {gate.choose() for _ in range(5000)} == {0}


def test_acceptance_follows_the_last_rounds() -> None:
    acceptance = Acceptance(0.5, 2)
    for _ in range(40):
        acceptance.note(4, 4)
    assert acceptance.share > 0.95
    for _ in range(40):
        acceptance.note(4, 0)
    assert acceptance.share < 0.1


def decode(gate: Gate, shares: list[float], costs: dict[int, float], seed: int) -> float:
    """The time, in plain steps, of an answer whose proposals at each id are right with these probabilities."""
    rng, place, time = random.Random(seed), 0, 0.0
    while place < len(shares):
        count = gate.choose()
        if not count:
            place, time = place + 1, time + 1
            continue
        right = 0
        while right < count and rng.random() < shares[min(place + right, len(shares) - 1)]:
            right += 1
        gate.note(count, right)
        place, time = place + right + 1, time + costs[count]
    return time


@pytest.mark.parametrize("costs", [CHEAP, DEAR, HOPELESS], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_an_answer_of_300_ids_takes_at_most_a_twentieth_longer_whatever_is_right(
    share: float, costs: dict[int, float]
) -> None:
    times = [decode(Gate(costs), [share] * 300, costs, seed) for seed in range(40)]
    assert 300 / (sum(times) / len(times)) >= 0.95
    if (best := best_count(share, costs)) and expected_ids(share, best) / costs[best] > 1.3:
        fixed = 300 * costs[best] / expected_ids(share, best)
        assert sum(times) / len(times) <= 1.15 * fixed  # and it finds the length that pays


def test_probes_come_later_and_later_and_find_what_has_changed() -> None:
    gate, asked = Gate(CHEAP), []
    for step in range(4000):
        if count := gate.choose():
            gate.note(count, 0)
            asked.append(step)
    waits = [after - before for before, after in pairwise(asked)]
    late = [wait for wait in waits if wait > 1]
    assert late[:3] == [PROBE_AFTER + 1, 2 * PROBE_AFTER + 1, 4 * PROBE_AFTER + 1]
    assert max(late) == PROBE_LATEST + 1
    proposed = 0
    for _ in range(PROBE_LATEST + 100):
        if count := gate.choose():
            gate.note(count, count)  # now all are right
            proposed += 1
    assert proposed > 50


def test_a_probe_is_asked_for_until_it_was_made() -> None:
    gate = Gate(CHEAP)
    while count := gate.choose():
        gate.note(count, 0)
    while not (count := gate.choose()):
        pass
    assert [gate.choose() for _ in range(5)] == [count] * 5  # a draft that has much to read takes several steps
    assert count <= PROBE
    gate.note(count, 0)
    assert gate.choose() == 0


def test_free_proposals_begin_after_a_few_right_ones_and_end_with_a_wrong_round() -> None:
    gate = WatchingGate(CHEAP)
    assert gate.choose() == 0
    for _ in range(CONFIRM):
        assert gate.choose() == 0
        gate.watch(True)
    counts = []
    for _ in range(4):
        counts.append(gate.choose())
        gate.note(counts[-1], counts[-1])
    assert counts == [2, 4, 6, 6]
    gate.note(6, 2)
    assert gate.choose() == 2
    gate.note(2, 0)
    assert gate.choose() == 0


def test_free_proposals_that_are_right_by_chance_alone_seldom_begin() -> None:
    for share in (0.1, 0.2):
        times = [copy(WatchingGate(CHEAP), [share] * 300, seed) for seed in range(40)]
        assert 300 / (sum(times) / len(times)) >= 0.99


def test_a_text_that_copies_and_is_changed_now_and_then_takes_half_the_time() -> None:
    shares = ([1.0] * 40 + [0.0] * 5) * 7
    assert len(shares) / copy(WatchingGate(CHEAP), shares, 0) > 1.7


def copy(gate: WatchingGate, shares: list[float], seed: int) -> float:
    """The time, in plain steps, of an answer whose free proposals at each id are right with these probabilities."""
    rng, place, time = random.Random(seed), 0, 0.0
    right = [rng.random() < share for share in shares]
    while place < len(shares):
        if not (count := gate.choose()):
            gate.watch(right[place])
            place, time = place + 1, time + 1
            continue
        accepted = next((i for i, good in enumerate(right[place : place + count]) if not good), count)
        gate.note(count, accepted)
        place, time = place + accepted + 1, time + CHEAP[count]
    return time


@pytest.mark.parametrize("costs", [HOPELESS, {}], ids=str)
def test_free_proposals_never_begin_where_they_cannot_pay(costs: dict[int, float]) -> None:
    gate = WatchingGate(costs)
    for _ in range(100):
        gate.watch(True)
        assert gate.choose() == 0
