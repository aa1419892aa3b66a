"""Predicts how fast OpenELM decodes on Macs that nobody here has: a formula for the time of a token, fitted to some
published rows and tried on others.

    python benchmarks/predict.py

    time of a token = host time + kernels * launch + bytes / (efficiency * bandwidth)

Host time is a published figure, kernels come from ledger.py, bytes from shapes; launch and efficiency are fitted, for
each chip, to two rows of published.json. The other rows of that chip show how wrong the formula is. Every figure
printed for OpenELM is predicted. docs/predictions.md, written by predictions.py, says where the formula does not hold.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import ledger

from elm_mlx.bench.shapes import SHAPES
from elm_mlx.config import config_from_dict
from elm_mlx.device.chips import TWO_PASSES, Chip, Work

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
BITS = {4: 4.5, 5: 5.5, 6: 6.5, 8: 8.5, 16: 16.0}  # per weight as stored, with a scale and a bias for every 64 weights
OPENELM = ("openelm-270m", "openelm-450m", "openelm-1.1b", "openelm-3b")


def fit(host: float, bandwidth: float, measured: list[tuple[Work, float]]) -> Chip:
    """The chip that takes exactly the measured seconds for two works. Raises ValueError if there is none: rows that
    disagree would need a launch of negative time, or more than the bandwidth."""
    (one, first), (two, second) = ((work, seconds - host) for work, seconds in measured)
    scale = one.kernels * two.nbytes - two.kernels * one.nbytes
    launch = (first * two.nbytes - second * one.nbytes) / scale
    share = scale / ((one.kernels * second - two.kernels * first) * bandwidth)
    if launch < 0 or not 0 < share <= 1:
        raise ValueError(f"No chip fits: a launch would take {launch:.2g} s at {share:.0%} of the bandwidth.")
    return Chip(host, launch, share, bandwidth)


@cache
def counted(program: str, bits: int, deep: bool) -> dict[str, ledger.Ledger]:
    """A program's ledger. It depends only on whether weights are quantized, and on whether attention takes one pass or
    two."""
    return ledger.count(program, 4 if bits < 16 else 16, 1100 if deep else 900)


def launches(program: str, family: str, layers: int, bits: int, depth: int, more: int = 0) -> int:
    """The kernels of a token; each layer has `more` of them than the ledger of the family says."""
    found = counted(program, bits, depth >= TWO_PASSES)[family]
    return layers * (len(found.layer) + more) + len(found.outside)


def published_work(row: dict[str, Any]) -> Work:
    """What a token of a published row took: the kernels of mlx-lm's Llama or OpenELM, and the bytes of every matrix and
    the cache, each read once."""
    m, depth = PUBLISHED["models"][row["model"]], row.get("depth", 0)
    if "openelm" in m:
        return openelm_work(m["openelm"], row["bits"], "mlx-lm", depth)
    attention = m["width"] * m["head_dim"] * 2 * (m["heads"] + m["kv_heads"])
    weights = m["layers"] * (attention + 3 * m["width"] * m["ffn"]) + m["vocab"] * m["width"]
    held = 2 * m["layers"] * m["kv_heads"] * m["head_dim"] * 2 * depth
    kernels = launches("mlx-lm", "llama", m["layers"], row["bits"], depth, m.get("more_kernels", 0))
    return Work(kernels, weights * BITS[row["bits"]] / 8 + held)


def openelm_work(shape: str, bits: int, program: str, depth: int = 128) -> Work:
    """What a token of an OpenELM takes."""
    config = config_from_dict(SHAPES[shape])
    kernels = launches(program, "openelm", config.num_layers, bits, depth)
    return Work(kernels, config.parameter_count * BITS[bits] / 8 + config.kv_bytes_per_token(16) * depth)


def fitted(name: str) -> tuple[Chip, list[tuple[dict[str, Any], float]]]:
    """(a chip, its rows with the error of each: the predicted rate over the published one, less 1)."""
    rows = [row for row in PUBLISHED["rows"] if row["chip"] == name]
    measured = [(published_work(row), 1 / row["tokens_per_s"]) for row in rows if row.get("fit")]
    chip = fit(PUBLISHED["host_ms"]["value"] / 1e3, PUBLISHED["bandwidth_gb_s"][name] * 1e9, measured)
    return chip, [(row, 1 / chip.seconds(published_work(row)) / row["tokens_per_s"] - 1) for row in rows]


def main() -> None:
    for name in PUBLISHED["bandwidth_gb_s"]:
        chip, rows = fitted(name)
        launch, limit = chip.launch * 1e6, chip.bandwidth / 1e9
        print(f"\n{name}: {launch:.2f} us a launch, {chip.efficiency:.0%} of {limit:.0f} GB/s")
        print("\n| published | bits | depth | tokens/s | model says | error |\n|---|--:|--:|--:|--:|--:|")
        print("\n".join(map(compared, *zip(*rows, strict=True))))
        wrong = [error for row, error in rows if not row.get("fit")]
        errors = f"{min(wrong):+.0%} to {max(wrong):+.0%}"
        print("\n| predicted | bits | elm-mlx | mlx-lm | ratio | error of rows held out |\n|---|--:|--:|--:|--:|--:|")
        print("\n".join(predicted(chip, shape, bits, errors) for shape in OPENELM for bits in (4, 8, 16)))


def compared(row: dict[str, Any], error: float) -> str:
    """A line of the table: a published row beside what the formula gives for it."""
    rate, shown = row["tokens_per_s"], "fitted" if row.get("fit") else f"{error:+.0%}"
    return f"| {row['model']} | {row['bits']} | {row.get('depth', 0)} | {rate} | {rate * (1 + error):.1f} | {shown} |"


def predicted(chip: Chip, shape: str, bits: int, wrong: str) -> str:
    """A line of the table: what the formula predicts for an OpenELM, with the error to expect."""
    ours, theirs = (1 / chip.seconds(openelm_work(shape, bits, program)) for program in ledger.PROGRAMS)
    return f"| predicted: {shape} | {bits} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {wrong} |"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
