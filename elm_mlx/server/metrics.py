"""Figures of the server in Prometheus's text format, under the nouns that vLLM's have.

Sources: Prometheus, "Text-based format", version 0.0.4; vLLM's documentation, "Metrics".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elm_mlx.api import Stats
    from elm_mlx.engine.worker import Activity

KIND = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "elm_mlx_"
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
REASONS = ("stop", "length", "abort", "error")  # why requests end: "abort" where the client went away
HISTOGRAMS = {
    "time_to_first_token_seconds": "Time from a request to its first token.",
    "request_time_per_output_token_seconds": "Mean time of a request's tokens after the first.",
    "e2e_request_latency_seconds": "Time from a request to its end.",
    "request_queue_time_seconds": "Time that a request waited for its turn.",
}
COUNTERS = {
    "prompt_tokens_total": "Tokens of prompts.",
    "generation_tokens_total": "Tokens of answers.",
    "prefix_cache_queries_total": "Tokens of prompts that were looked for among those of earlier requests.",
    "prefix_cache_hits_total": "Tokens of prompts whose keys and values were there.",
}


class Histogram:
    """How many values lie at or below each of SECONDS."""

    def __init__(self) -> None:
        self._counts, self.sum = [0] * (len(SECONDS) + 1), 0.0

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self._counts)

    def add(self, seconds: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, label: str) -> Iterator[str]:
        """Its lines, with a label for each."""
        for bound, count in zip((*SECONDS, "+Inf"), accumulate(self._counts), strict=True):
            yield f'{name}_bucket{{{label},le="{bound}"}} {count}'
        yield f"{name}_sum{{{label}}} {self.sum:.6f}"
        yield f"{name}_count{{{label}}} {self.count}"


class Figures:
    """The figures of one model."""

    def __init__(self) -> None:
        self.ended = dict.fromkeys(REASONS, 0)
        self.counters = Counter(dict.fromkeys(COUNTERS, 0))
        self.histograms = {name: Histogram() for name in HISTOGRAMS}

    def add(self, stats: Stats, reason: str, seconds: float) -> None:
        """Counts an answer that has ended, `seconds` after it was asked for."""
        self.ended[reason] += 1
        self.counters["prompt_tokens_total"] += stats.prompt_tokens
        self.counters["generation_tokens_total"] += stats.generated_tokens
        self.counters["prefix_cache_queries_total"] += stats.prompt_tokens
        self.counters["prefix_cache_hits_total"] += stats.cached_tokens
        times = self.histograms
        times["e2e_request_latency_seconds"].add(seconds)
        if stats.time_to_first_token_s:
            times["request_queue_time_seconds"].add(stats.waited_s)
            times["time_to_first_token_seconds"].add(stats.time_to_first_token_s)
        if stats.decode_tokens_per_s:
            times["request_time_per_output_token_seconds"].add(1 / stats.decode_tokens_per_s)


class Metrics:
    """The figures of all models, by their names on the shelf: no other text comes into them."""

    def __init__(self) -> None:
        self.models: dict[str, Figures] = {}

    def add(self, model: str, stats: Stats, reason: str, seconds: float) -> None:
        """Counts an answer of a model that has ended, `seconds` after it was asked for."""
        self.models.setdefault(model, Figures()).add(stats, reason, seconds)

    def usual_seconds(self, model: str) -> float:
        """How long an answer of a model takes in the mean, as far as is known."""
        if not (figures := self.models.get(model)):
            return 1.0
        times = figures.histograms["e2e_request_latency_seconds"]
        return times.sum / max(1, times.count)

    def text(self, activities: Mapping[str, Activity]) -> str:
        """All figures in Prometheus's format, with what the loaded models do now."""
        return "".join(f"{line}\n" for line in self._lines(activities))

    def _lines(self, activities: Mapping[str, Activity]) -> Iterator[str]:
        running = [(name, now.running) for name, now in activities.items()]
        waiting = [(name, now.waiting) for name, now in activities.items()]
        usage = [(name, now.reserved_bytes / max(1, now.limit_bytes)) for name, now in activities.items()]
        yield from plain_lines("num_requests_running", "gauge", "Requests that are being answered.", running)
        yield from plain_lines("num_requests_waiting", "gauge", "Requests that wait for their turn.", waiting)
        yield from plain_lines("kv_cache_usage_perc", "gauge", "Used share of the memory for caches, 1 is all.", usage)
        for name, meaning in COUNTERS.items():
            counted = [(model, figures.counters[name]) for model, figures in self.models.items()]
            yield from plain_lines(name, "counter", meaning, counted)
        yield from heading("request_success_total", "counter", "Requests that have ended, by why.")
        for model, figures in self.models.items():
            for reason, count in figures.ended.items():
                yield f'{PREFIX}request_success_total{{{label(model)},finished_reason="{reason}"}} {count}'
        for name, meaning in HISTOGRAMS.items():
            yield from heading(name, "histogram", meaning)
            for model, figures in self.models.items():
                yield from figures.histograms[name].lines(PREFIX + name, label(model))


def heading(name: str, kind: str, meaning: str) -> list[str]:
    """The lines that say what a figure is."""
    return [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]


def plain_lines(name: str, kind: str, meaning: str, values: Iterable[tuple[str, float]]) -> list[str]:
    """The lines of a figure that is one number for each model."""
    return [
        *heading(name, kind, meaning),
        *(f"{PREFIX}{name}{{{label(model)}}} {value:g}" for model, value in values),
    ]


def label(model: str) -> str:
    """The label of a model's figures, its name quoted as the format wants it."""
    quoted = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'model_name="{quoted}"'
