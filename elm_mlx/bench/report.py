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
Both = tuple[Run, Run | None]  # one run of ours, and beside it one of theirs, of requests that are answered together


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


def together_report(test: Together, rounds: Sequence[Both]) -> dict[str, Any]:
    """All figures of one test of requests that are answered together."""
    ours, theirs = [own for own, _ in rounds], [other for _, other in rounds if other]
    other = run_figures(test, theirs) | run_ratios(ours, theirs) if theirs else None
    return {"test": test.name} | asdict(test) | run_figures(test, ours) | {PEER: other}


def run_figures(test: Together, runs: Sequence[Run]) -> dict[str, Any]:
    """One program's runs of a test of requests that are answered together. "prompt" is the time until every request has
    its first token, the other figures are of the tokens that follow."""
    prompt, seconds = [run.begun.seconds for run in runs], [run.seconds for run in runs]
    return {
        "prompt_samples_s": prompt,
        "samples_s": seconds,
        "cpu_samples_s": [run.cpu_seconds for run in runs],
        "prompt_tokens_per_s": spread([test.rows * test.prompt / second for second in prompt]),
        "tokens_per_s": spread([run.tokens / second for run, second in zip(runs, seconds, strict=True)]),
        "cpu_seconds_per_token": spread([run.cpu_seconds / run.tokens for run in runs]),
        "peak_memory_bytes": max(run.peak_bytes for run in runs),
    }


def run_ratios(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Any]:
    """mlx-lm's times over ours, pair by pair: for the prompts, for a token that follows, and for the processor time of
    such a token. Above 1 elm-mlx is faster."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "prompt_ratio": ratios([other.begun.seconds / own.begun.seconds for own, other in pairs]),
        "ratio": ratios([other.seconds / other.tokens / (own.seconds / own.tokens) for own, other in pairs]),
        "cpu_ratio": ratios(
            [other.cpu_seconds / other.tokens / (own.cpu_seconds / own.tokens) for own, other in pairs]
        ),
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
    batches = [batch_row(model, test) for model in models for test in model["batches"]]
    return "\n".join([
        f"{machine['device']}, {machine['cores']} cores, {readable_size(machine['memory_bytes'])}, "
        f"{machine['system']}, BLAS {machine['blas']}, command buffers {machine['budget']}",
        f"reads {read['bytes_per_s'] / 1e9:,.1f} GB/s ({read['by']})",
        f"{', '.join(software)}; {report['repetitions']} runs a test, after a warm-up",
        *map(about, models),
        *(line for table in (rows, batches) if table for line in ["", *aligned(table)]),
    ])  # fmt: skip


def about(model: dict[str, Any]) -> str:
    """One line about a model."""
    line = (
        f"{model['name']}: {model['parameters']:,} parameters, {model['bits_per_weight']:.2f} bits each, computed "
        f"in {model['computed_in']}; loads in {model['load_s']:.2f} s; files {model['fingerprint'][:12]}"
    )
    if asked := model.get("options"):
        line += f"; asked with {', '.join(f'{name} {value}' for name, value in asked.items())}"
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


def batch_row(model: dict[str, Any], test: dict[str, Any]) -> dict[str, str]:
    """The cells of a test of requests that are answered together, by column, as llama.cpp's batched bench has them."""
    cells = {
        "model": f"{model['name']} {model['stored_as']}",
        "PP": f"{test['prompt']}",
        "TG": f"{test['tokens']}",
        "B": f"{test['rows']}",
        "S_PP t/s": f"{test['prompt_tokens_per_s']['median']:,.2f}",
        "S_TG t/s": f"{test['tokens_per_s']['median']:,.2f}",
        "CPU ms": f"{1000 * test['cpu_seconds_per_token']['median']:.2f}",
        "peak MB": f"{test['peak_memory_bytes'] / 1e6:,.0f}",
    }
    if peer := test[PEER]:
        cells |= {
            f"{PEER} S_PP": f"{peer['prompt_tokens_per_s']['median']:,.2f}",
            f"{PEER} S_TG": f"{peer['tokens_per_s']['median']:,.2f}",
        }
        for name, column in (("prompt_ratio", "PP ratio"), ("ratio", "TG ratio"), ("cpu_ratio", "CPU ratio")):
            cells[column] = "{median:.2f} ({min:.2f} to {max:.2f})".format(**peer[name])
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
