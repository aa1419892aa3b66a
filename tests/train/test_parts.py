"""Learning rates, the picture of losses, and the memory that is planned."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from elm_mlx.train.curve import MOST_POINTS, curve
from elm_mlx.train.order import Order
from elm_mlx.train.schedule import learning_rate


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    for kind in ("linear", "cosine"):
        rates = [learning_rate(kind, 1.0, step, 10, warmup=2) for step in range(11)]
        assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
        assert rates[3:] == sorted(rates[3:], reverse=True)
        assert rates[10] == pytest.approx(0)
    assert learning_rate("constant", 1.0, 9, 10) == 1.0
    assert learning_rate("cosine", 1.0, 6, 10, warmup=2) == pytest.approx(0.5)


def test_the_curve_is_a_small_picture_however_long_the_training() -> None:
    records = [{"step": step, "loss": 3 / step} for step in range(1, 20_001)] + [{"step": 0, "valid_loss": 2.5}]
    text = curve(records)
    lines = [one for one in ET.fromstring(text).iter() if one.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) <= MOST_POINTS for line in lines] == [True, True]
    assert len(text) < 20_000
    assert "step 0" in curve([])


def test_a_step_depends_on_its_number_alone() -> None:
    lengths = [3, 5, 4, 4, 9, 2, 2]
    whole, later = (Order(lengths, 2, 3, seed=5) for _ in range(2))
    steps = [whole.rows(step) for step in range(6)]
    assert whole.steps_an_epoch == 2
    assert later.rows(5) == steps[5]
    for begin in (0, 2, 4):
        rows = [row for step in steps[begin : begin + 2] for batch in step for row in batch]
        assert sorted(rows) == list(range(len(lengths)))
