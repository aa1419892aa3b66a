"""What a metric of a task comes to over its questions, and how far that may be from what more questions would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST = 10  # questions, from which on an error is told
# Perplexities of lm-eval's, 2 to the bits of a text's end, of a word, of a byte; and what is told in bits itself. Of a
# question they have a log-probability, and beside it the number of words or bytes where these count.
PERPLEXITIES = {"perplexity", "word_perplexity", "byte_perplexity"}
IN_BITS = {*PERPLEXITIES, "bits_per_byte"}


def pair_of(metric: str, value: Any) -> tuple[float, float] | None:
    """A question's part of a metric as (value, weight), of which the metric is the ratio of sums, and in bits where it
    is one of IN_BITS; None for metrics that are no such thing, as F1."""
    pair = value if isinstance(value, list) and metric in IN_BITS else [value, 1]
    if len(pair) != 2 or not all(map(is_finite, pair)) or pair[1] <= 0:
        return None
    return (-pair[0] / math.log(2) if metric in IN_BITS else float(pair[0])), float(pair[1])


def is_finite(value: Any) -> bool:
    """Whether a value is a number with which one can count."""
    return isinstance(value, int | float) and abs(value) < 1e100


def error_of(metric: str, value: float, pairs: Sequence[tuple[float, float]]) -> float | None:
    """The standard error of a metric that has this value; that of a perplexity by what a bit more makes of it."""
    error = ratio_and_error(pairs)[1] if pairs else None
    return error if error is None or metric not in PERPLEXITIES else error * value * math.log(2)


def ratio_and_error(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """(the sum of values through that of weights, its standard error; None for few). With equal weights it is the error
    of a mean; else that of a ratio: W. G. Cochran, Sampling Techniques (1977), section 6.4."""
    values, weights = (np.array(row, np.float64) for row in zip(*pairs, strict=True))
    ratio = values.sum() / weights.sum()
    rest, count = values - ratio * weights, len(values)
    if count < LEAST:
        return float(ratio), None
    return float(ratio), float(math.sqrt(count / (count - 1) * np.square(rest).sum()) / weights.sum())
