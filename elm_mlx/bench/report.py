"""Turns samples into figures, and a report into what a person reads."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from elm_mlx.bench.cases import DECODE, FIRST, Case, Sample, Together
from elm_mlx.bench.loads import Run
from elm_mlx.files import readable_size

PEER = "mlx-lm"
Round = tuple[Sample, Sample | None]  # one run of ours, and beside it one of theirs


def case_report(case: Case, rounds: Sequence[Round], nbytes: int | None, read: float) -> dict[str, Any]:
    """All figures of one test: `nbytes` are those that a token reads, `read` those that the machine reads a second."""
    ours, theirs = [own for own, _ in rounds], [other for _, other in rounds if other]
    own = case_figures(case, ours)
    share = nbytes * own["tokens_per_s"]["median"] / read if nbytes else None
    other = case_figures(case, theirs) | paired_ratios(ours, theirs) if theirs else None
    return {"test": case.name} | asdict(case) | own | {"bytes_per_token": nbytes, "bandwidth_share": share, PEER: other}


def case_figures(case: Case, samples: Sequence[Sample]) -> dict[str, Any]:
    """One program's samples of a test, and the figures computed from them. A first token has no rate."""
    seconds = [sample.seconds for sample in samples]
    return {
        "samples_s": seconds,
        "host_samples_s": (host := [sample.host_seconds for sample in samples]),
        "seconds": spread(seconds),
        "host_seconds": spread(host),
        "tokens_per_s": None if case.kind == FIRST else spread([case.tokens / second for second in seconds]),
        "peak_memory_bytes": max(sample.peak_bytes for sample in samples),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation (None of a single value) and median."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "stdev": deviation, "median": statistics.median(values)}


def paired_ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, Any]:
    """mlx-lm's time over ours, pair by pair, and its host's time over ours: above 1 elm-mlx is faster."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "ratio": ratios([other.seconds / own.seconds for own, other in pairs]),
        "host_ratio": ratios([other.host_seconds / own.host_seconds for own, other in pairs]),
    }


def ratios(values: Sequence[float]) -> dict[str, Any]:
    """Every ratio, their median, the least and the greatest."""
    return {"samples": list(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def text(report: dict[str, Any]) -> str:
    """The report as a person reads it: the machine, the models, and one table of all tests, in Markdown."""
    machine, models = report["machine"], report["models"]
    read, software = machine["read"], (f"{name} {version}" for name, version in report["software"].items())
    rows = [row(model, test) for model in models for test in model["tests"]]
    return "\n".join([
        f"{machine['device']}, {machine['cores']} cores, {readable_size(machine['memory_bytes'])}, "
        f"{machine['system']}, BLAS {machine['blas']}, command buffers {machine['budget']}",
        f"reads {read['bytes_per_s'] / 1e9:,.1f} GB/s ({read['by']})",
        f"{', '.join(software)}; {report['repetitions']} runs a test, after a warm-up",
        *map(about, models),
        "",
        *aligned(rows),
    ])  # fmt: skip


def about(model: dict[str, Any]) -> str:
    """One line about a model."""
    line = (
        f"{model['name']}: {model['parameters']:,} parameters, {model['bits_per_weight']:.2f} bits each, computed "
        f"in {model['computed_in']}; loads in {model['load_s']:.2f} s; files {model['fingerprint'][:12]}"
    )
    if not (peer := model[PEER]):
        return line
    torch = "with" if peer["torch"] else "without"
    return (f"{line}; {PEER} {peer['version']} {torch} torch says {peer['same_tokens']} of {peer['judged_tokens']} "
            f"greedy tokens as we do, and finds ours at most {peer['below_best']:.2g} below its best")  # fmt: skip


def row(model: dict[str, Any], test: dict[str, Any]) -> dict[str, str]:
    """A test's cells by their column."""
    mean, median = rate(test)
    share, nbytes, peer = test["bandwidth_share"], test["bytes_per_token"], test[PEER]
    cells = {
        "model": f"{model['name']} {model['stored_as']}",
        "test": test["test"],
        "t/s": mean,
        "median": median,
        "MB/t": f"{nbytes / 1e6:,.0f}" if nbytes else "",
        "share": f"{share:.1%}" if share else "",
        "host ms": f"{1000 * test['host_seconds']['median'] / test['tokens']:.2f}" if test["kind"] == DECODE else "",
        "peak MB": f"{test['peak_memory_bytes'] / 1e6:,.0f}",
    }
    if peer:
        ratio, host = peer["ratio"], peer["host_ratio"]["median"]
        cells |= {
            PEER: rate(peer)[0],
            "ratio": f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
            "host ratio": f"{host:.2f}" if test["kind"] == DECODE else "",
        }
    return cells


def rate(figures: dict[str, Any]) -> tuple[str, str]:
    """(mean ± deviation, median) of tokens a second; of milliseconds for a first token."""
    values, scale, unit = figures["tokens_per_s"], 1, ""
    if values is None:
        values, scale, unit = figures["seconds"], 1000, " ms"
    deviation = "" if values["stdev"] is None else f" ± {scale * values['stdev']:,.2f}"
    return f"{scale * values['mean']:,.2f}{deviation}{unit}", f"{scale * values['median']:,.2f}{unit}"


def aligned(rows: Sequence[dict[str, str]]) -> list[str]:
    """A Markdown table's lines, its first two columns text and the others numbers."""
    table = [list(rows[0]), *(list(cells.values()) for cells in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    fill = [str.ljust] * 2 + [str.rjust] * (len(widths) - 2)
    lines = [f"| {' | '.join(f(cell, w) for f, cell, w in zip(fill, cells, widths, strict=True))} |" for cells in table]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
