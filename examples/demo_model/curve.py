"""The training curves, read and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib import pyplot

Point = dict[str, float]  # as train.py writes them


def read_curve(work: Path) -> list[Point]:
    """Reads the curve that a training run wrote in `work`."""
    return json.loads((work / "curve.json").read_text(encoding="utf-8"))


def plot(curves: Mapping[str, list[Point]], path: Path) -> None:
    """Draws an SVG of bits per token against tokens: each model's training dotted, its held-out stories solid."""
    matplotlib.rcParams["svg.hashsalt"] = "elm-mlx"  # else every drawing gives its parts new names
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for i, (name, points) in enumerate(curves.items()):
        tokens = [point["tokens"] / 1e6 for point in points]
        axes.plot(tokens, [p["training"] for p in points], f"C{i}:", linewidth=1, label=f"{name}, training")
        axes.plot(tokens, [p["held_out"] for p in points], f"C{i}", label=f"{name}, held out")
    axes.set(xlabel="million tokens", ylabel="bits per token", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
