"""What a metric of a task comes to over its questions, and how far that may be from what more questions would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST = 10  # questions, from which on an error is told
RATIOS = {"word_perplexity", "byte_perplexity", "bits_per_byte"}  # of lm-eval: (log-probability, words or bytes)


def pair_of(metric: str, value: Any) -> tuple[float, float] | None:
    """A question's part of a metric as (value, weight), of which the metric is the ratio of sums, -log2 of it for those
    in RATIOS; None for metrics that are no such thing, as F1."""
    if isinstance(value, bool | int | float):
        return (float(value), 1.0) if math.isfinite(value) else None
    if metric in RATIOS and isinstance(value, list) and len(value) == 2:
        return -float(value[0]) / math.log(2), float(value[1])
    return None


def ratio_and_error(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """(the sum of values through that of weights, its standard error; None for few). With equal weights it is the error
    of a mean; else that of a ratio: W. G. Cochran, Sampling Techniques (1977), section 6.4."""
    values, weights = (np.array(row, np.float64) for row in zip(*pairs, strict=True))
    ratio = values.sum() / weights.sum()
    rest, count = values - ratio * weights, len(values)
    if count < LEAST:
        return float(ratio), None
    return float(ratio), float(math.sqrt(count / (count - 1) * np.square(rest).sum()) / weights.sum())
