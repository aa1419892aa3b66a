"""The benchmarks of several requests: what they compare, and results that follow from their samples."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import batching
import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REPORTS = [path for path in RESULTS.glob("*.json") if batching.SCHEMA in path.read_text(encoding="utf-8")[:200]]


class Lab:
    """A lab whose every run of ours takes a second, and of the others two."""

    def take_turns(self, ours: Any, other: Any) -> batching.Compared:
        return batching.Compared([1.0, 1.0, 2.0], [2.0, 3.0, 2.0])


def test_a_result_has_the_ratios_of_its_pairs() -> None:
    found = batching.result("rows-4", "llama-16x64", batching.rows_4(Lab()))  # type: ignore[arg-type]
    assert found["ratios"] == [2.0, 3.0, 1.0]
    assert (found["ratio"], found["min"], found["max"], found["bar"]) == (2.0, 1.0, 3.0, 1.8)
    assert found["what"].startswith("A token of 4 rows")


def test_rows_have_16_to_256_tokens_while_they_are_counted() -> None:
    for count in (4, 8, 16):
        load = batching.spread_rows(count)
        lengths = [len(arrival.prompt) for arrival in load.arrivals]
        assert (min(lengths), max(lengths) + batching.STEPS) == (16, 256)
        assert (load.rows, load.counted) == (count, count * batching.STEPS)


def test_random_arrivals_come_in_order_and_are_always_the_same() -> None:
    load = batching.random_arrivals(4)
    assert load == batching.random_arrivals(4)
    times = [arrival.after for arrival in load.arrivals]
    assert (len(times), times, len(set(times)) > 12) == (24, sorted(times), True)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_what_lies_in_results_follows_from_its_samples(path: Path) -> None:
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert {(one["experiment"], one["shape"]) for one in results} == {
        (name, shape) for name in batching.EXPERIMENTS for shape in batching.SHAPES
    }
    for one in results:
        ratios = [other / ours for ours, other in zip(one["ours_s"], one["other_s"], strict=True)]
        assert len(ratios) >= 5
        assert one["ratio"] == pytest.approx(statistics.median(ratios))
