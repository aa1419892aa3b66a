"""A step is handed over early or late as it is asked for, and for "auto" as measured, once that may be trusted."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from elm_mlx.engine.pace import LEAST_BYTES, MEASURED_ON_A_MAC, TRIAL, Pace, Trial, choose
from elm_mlx.errors import InvalidRequest

LARGE = 4 * LEAST_BYTES
SECONDS = (None, 0.001, 0.002)
BYTES = (0, LEAST_BYTES - 1, LEAST_BYTES, LARGE // 2, LARGE - 1, LARGE, LARGE + 1, 2 * LARGE, 100 * LARGE)
STATES = [
    (Trial(tried, early, late), nbytes, trusted)
    for tried, early, late, nbytes, trusted in product((0, LARGE), SECONDS, SECONDS, BYTES, (False, True))
]


@pytest.mark.parametrize("submit", ["early", "late"])
def test_what_is_asked_for_is_done_in_every_state(submit: str) -> None:
    assert {choose(submit, *state) for state in STATES} == {submit == "early"}


def test_auto_is_late_exactly_where_that_is_being_measured_or_was_faster() -> None:
    late = [state for state in STATES if not choose("auto", *state)]
    expected = [
        (trial, nbytes, trusted)
        for trial, nbytes, trusted in STATES
        if trusted and trial.nbytes == LARGE and LARGE / 2 < nbytes < 2 * LARGE  # measured with such buffers
        if trial.early and (not trial.late or trial.late < trial.early)
    ]
    assert late == expected
    assert len(late) == 3 * 3  # three sizes, and three pairs of times


def test_auto_is_early_while_nobody_ran_it_on_a_mac() -> None:
    """Who sets the constant adds the results of a Mac that show it."""
    pace = Pace("auto")
    assert pace.trusted == MEASURED_ON_A_MAC
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    assert not MEASURED_ON_A_MAC or any(not file.name.startswith("linux") for file in results.glob("*.json"))
    untrusted = Pace("auto", trusted=False)
    for seconds in (1.0, 0.1) * 50:
        assert untrusted.is_early(LARGE)
        untrusted.note(seconds)


def test_another_word_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="submit is 'soon'; it must be one of early, late, auto"):
        Pace("soon")


@pytest.mark.parametrize("submit", ["early", "late"])
def test_a_fixed_pace_never_changes_and_keeps_nothing(submit: str) -> None:
    pace = Pace(submit, trusted=True)
    for nbytes in BYTES * 10:
        assert pace.is_early(nbytes) == (submit == "early")
        pace.note(nbytes / 1e9)
    assert pace.trial == Trial()


def ways(pace: Pace, nbytes: int, steps: int, early: float = 0.002, late: float = 0.001) -> str:
    """The way of each step, E or L, where steps take so many seconds each way."""
    taken = ""
    for _ in range(steps):
        is_early = pace.is_early(nbytes)
        pace.note(early if is_early else late)
        taken += "E" if is_early else "L"
    return taken


def test_each_way_is_tried_and_the_faster_one_stays() -> None:
    both = "E" * (TRIAL + 1) + "L" * (TRIAL + 1)  # the first of each is not counted
    assert ways(Pace(trusted=True), LARGE, 60) == (both + "L" * 60)[:60]
    assert ways(Pace(trusted=True), LARGE, 60, late=0.003) == (both + "E" * 60)[:60]


def test_buffers_of_another_size_are_tried_anew() -> None:
    pace = Pace(trusted=True)
    ways(pace, LARGE, 60)
    assert ways(pace, 2 * LARGE - 1, 60) == "L" * 60
    assert ways(pace, 2 * LARGE, 60, late=0.003).endswith("E" * 30)
    assert ways(pace, LARGE, 60).endswith("L" * 30)


def test_small_buffers_are_not_worth_a_trial() -> None:
    pace = Pace(trusted=True)
    assert ways(pace, LEAST_BYTES - 1, 100) == "E" * 100
    assert ways(pace, LARGE, 60).endswith("L" * 30)
    assert ways(pace, LEAST_BYTES - 1, 60) == "E" * 60


def test_one_slow_step_decides_nothing() -> None:
    pace, late = Pace(trusted=True), 0
    for step in range(100):
        is_early = pace.is_early(LARGE)
        late += not is_early
        pace.note(5.0 if step in (5, 14) else 0.002 if is_early else 0.001)
    assert late > 80
