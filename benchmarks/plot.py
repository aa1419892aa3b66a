"""Draws `elm-mlx bench --json` documents as SVG: speed over context, over bits and over bytes a token.

    python benchmarks/plot.py FILE.json... [--out FOLDER]

decode.svg and prefill.svg have tokens a second over the positions held, bits.svg decoding over bits a weight, and
roofline.svg over the bytes of a token, below what the machine's memory could give. Dashed lines are mlx-lm's.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 270, 50, 50
WIDE, HIGH = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#7b2d8b", "#b8860b", "#444444")
Series = dict[str, list[tuple[float, float]]]
Documents = list[dict[str, Any]]


class Axis(NamedTuple):
    """How a value becomes a place between 0 and 1, and the values that are written beside the axis."""

    place: Callable[[float], float]
    ticks: list[float]


def series(documents: Documents, kind: str, x: Callable[[Any, Any], float], name: str, empty: bool = False) -> Series:
    """Median tokens a second of every test of a kind, over x(test, model), ours and mlx-lm's. `name` is a format string
    for a model's fields; `empty` keeps only tests that begin with an empty cache."""
    found: Series = {}
    for model in (model for document in documents for model in document["models"]):
        for test in (test for test in model["tests"] if test["kind"] == kind and not (empty and test["depth"])):
            for label, side in ((name.format(**model), test), (f"{name.format(**model)}, mlx-lm", test["mlx-lm"])):
                if side:
                    point = x(test, model), side["tokens_per_s"]["median"]
                    found[label] = sorted([*found.get(label, []), point])
    return found


def roofline(documents: Documents) -> Series:
    """Decoding over bytes a token, and the limit of a machine that does nothing but read those bytes."""
    found = series(documents, "tg", lambda test, _: test["bytes_per_token"], "{name} {stored_as}")
    span = [x for points in found.values() for x, _ in points]
    for machine in (document["machine"] for document in documents if span):
        limit = machine["read"]["bytes_per_s"]
        found[f"{machine['device']}: {limit / 1e9:.0f} GB/s"] = [(x, limit / x) for x in sorted({min(span), max(span)})]
    return found


def axis(values: list[float], logarithmic: bool) -> Axis:
    """An axis from 0 to a round number, or, if logarithmic, from one power of ten to another."""
    if logarithmic:
        low, high = math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 1
        return Axis(lambda v: (math.log10(v) - low) / (high - low), [10.0**n for n in range(low, high + 1)])
    top = max(values) or 1.0
    step = 10.0 ** math.floor(math.log10(top))
    step *= next(part for part in (0.2, 0.5, 1, 2) if top / (part * step) <= 6)
    steps = math.ceil(top / step)
    return Axis(lambda v: v / (steps * step), [step * n for n in range(steps + 1)])


def chart(title: str, label: str, found: Series, logarithmic: bool = False) -> str:
    """One picture: its lines, its axes, and the lines' names beside it."""
    points = [point for line in found.values() for point in line]
    x, y = (axis([point[i] for point in points], logarithmic) for i in (0, 1))
    parts = [text(LEFT, 20, title), text(LEFT, TOP - 10, "tokens/s"), text(LEFT + WIDE, HEIGHT - 8, label, "end")]
    parts += [text(LEFT + WIDE * x.place(tick), HEIGHT - BOTTOM + 18, f"{tick:,.4g}") for tick in x.ticks]
    for tick in y.ticks:
        level = TOP + HIGH * (1 - y.place(tick))
        parts.append(f'<path d="M{LEFT} {level:.1f}h{WIDE}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, level + 4, f"{tick:,.4g}", "end"))
    for number, (name, line) in enumerate(found.items()):
        colour, dash = COLOURS[number % len(COLOURS)], "5 4" if name.endswith("mlx-lm") else "none"
        places = [(LEFT + WIDE * x.place(a), TOP + HIGH * (1 - y.place(b))) for a, b in line]
        way = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        parts.append(text(WIDTH - RIGHT + 12, TOP + 16 * number, name, "start", colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="12">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def pictures(documents: Documents) -> dict[str, str]:
    """The pictures by file name; one without a point is left out."""
    depth, bits = (lambda test, _: test["depth"]), (lambda _, model: model["bits_per_weight"])
    decode, prefill = (series(documents, kind, depth, "{name} {stored_as}") for kind in ("tg", "pp"))
    made: dict[str, tuple[Any, ...]] = {
        "decode.svg": ("Decoding", "positions held", decode),
        "prefill.svg": ("Reading a prompt", "positions held", prefill),
        "bits.svg": ("Decoding, nothing held", "bits a weight", series(documents, "tg", bits, "{name}", empty=True)),
        "roofline.svg": ("Decoding", "bytes a token", roofline(documents), True),
    }
    return {name: chart(*what) for name, what in made.items() if what[2]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("files", nargs="+", type=Path)
    options.add_argument("--out", type=Path, default=Path())
    given = options.parse_args()
    for name, picture in pictures([json.loads(file.read_text(encoding="utf-8")) for file in given.files]).items():
        (given.out / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
