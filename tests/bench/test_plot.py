"""Pictures of bench documents: well-formed, every point where its figure says, nothing drawn of what is not there."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import plot
import pytest

SVG = "{http://www.w3.org/2000/svg}"


def case(kind: str, depth: int, rate: float, peer: float | None = None) -> dict[str, Any]:
    other = {"tokens_per_s": {"median": peer}} if peer else None
    return {"kind": kind, "depth": depth, "tokens_per_s": {"median": rate}, "bytes_per_token": 10**6, "mlx-lm": other}


def document(*tests: dict[str, Any]) -> dict[str, Any]:
    model = {"name": "a < b", "stored_as": "4-bit", "bits_per_weight": 4.5, "tests": list(tests)}
    return {"machine": {"device": "Apple M9", "read": {"bytes_per_s": 2e9}}, "models": [model]}


def test_every_kind_of_test_has_its_picture() -> None:
    made = plot.pictures([document(case("tg", 0, 100.0, 80.0), case("tg", 512, 50.0, 40.0), case("pp", 0, 900.0))])
    assert list(made) == ["decode.svg", "prefill.svg", "bits.svg", "roofline.svg"]
    assert list(plot.pictures([document(case("pp", 0, 900.0))])) == ["prefill.svg"]
    for picture in made.values():
        names = [one.text for one in ElementTree.fromstring(picture).iter(f"{SVG}text")]
        assert any(name and name.startswith("a < b") for name in names)


def test_points_lie_where_their_figures_say() -> None:
    tests = case("tg", 0, 100.0, 80.0), case("tg", 512, 50.0, 40.0)
    picture = ElementTree.fromstring(plot.pictures([document(*tests)])["decode.svg"])
    ours, theirs = ([tuple(map(float, place.split(","))) for place in line.get("points", "").split()]
                    for line in picture.iter(f"{SVG}polyline"))  # fmt: skip
    base = plot.HEIGHT - plot.BOTTOM
    for line, rates in ((ours, (100, 50)), (theirs, (80, 40))):
        assert [base - y for _, y in line] == pytest.approx([rate / 100 * plot.HIGH for rate in rates], abs=0.1)
    assert ours[0][0] == plot.LEFT < ours[1][0] <= plot.LEFT + plot.WIDE


def test_the_roofline_is_the_bandwidth_over_a_tokens_bytes() -> None:
    found = plot.roofline([document(case("tg", 0, 100.0))])
    assert found["Apple M9: 2 GB/s"] == [(10**6, 2000.0)]
    assert found["a < b 4-bit"] == [(10**6, 100.0)]


@pytest.mark.parametrize(("values", "last"), [([7.0], 8), ([0.0], 1), ([1234.0], 1500), ([0.03, 0.09], 0.1)])
def test_an_axis_holds_its_values_and_ends_at_a_round_number(values: list[float], last: float) -> None:
    found = plot.axis(values, logarithmic=False)
    assert found.ticks[-1] == pytest.approx(last)
    assert all(0 <= found.place(value) <= 1 for value in values)
