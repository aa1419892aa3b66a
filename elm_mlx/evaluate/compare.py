"""Two results of the same questions beside each other: by how much they differ, and what of that may be chance.

The questions are the same, so that what counts are their differences, which vary less than each result does: E. Miller,
Adding Error Bars to Evals (2024), arXiv 2411.00640, section 4.2. An interval holds the difference that all such
questions would show with a confidence of 95 %:

- of accuracies, where each question is right or wrong, by D. G. Bonett and R. M. Price, Adjusted Wald Confidence
  Interval for a Difference of Binomial Proportions Based on Paired Data (2012), which adds one question of each kind of
  difference, so that it has a width where all answers agree; beside it stands the exact test of Q. McNemar, Note on the
  Sampling Error of the Difference Between Correlated Proportions (1947): how likely so uneven a split of the questions
  that only one of the two has right would be by chance;
- of other metrics that are means, or ratios of sums, by the normal distribution, with the error of a ratio of W. G.
  Cochran, Sampling Techniques (1977), section 6.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.evaluate.errors_of_means import IN_BITS, pair_of, ratio_and_error

Z = 1.959964  # of the normal distribution: 95 % lie within so many standard errors
SAME = ("few_shot", "limit", "chat", "seed")  # settings that decide what is asked


@dataclass(frozen=True)
class Difference:
    """A metric of a task: what both come to, B less A, and the ends of its interval (None where there is none).
    `better` and `worse` count the questions that only B, or only A, has right, and `chance` is McNemar's probability;
    None for metrics that are not right or wrong. The difference of perplexities is told `in_bits`."""

    task: str
    metric: str
    questions: int
    a: float
    b: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    better: int | None = None
    worse: int | None = None
    chance: float | None = None

    @property
    def in_bits(self) -> bool:
        """Whether the difference is one of bits: of a word, of a byte, or of what follows a context."""
        return self.metric.partition(" ")[0] in IN_BITS

    @property
    def is_chance(self) -> bool:
        """Whether nothing of the difference need be more than chance."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """The differences of two results of `evaluate`, each metric of each task. Raises InvalidRequest for results of
    other questions, or of other settings, and for what is no result."""
    refuse_other_settings(a, b)
    found = []
    for task, ours in a["tasks"].items():
        theirs = b["tasks"][task]
        refuse_other_questions(task, a["questions"][task], b["questions"][task])
        if only := sorted(ours["metrics"].keys() ^ theirs["metrics"].keys()):
            raise InvalidRequest(f"Only one of the two results has {', '.join(only)} for {task}. Ask both models anew.")
        for metric in ours["metrics"]:
            values = (ours["metrics"][metric]["value"], theirs["metrics"][metric]["value"])
            found.append(difference(task, metric, values, a["questions"][task], b["questions"][task]))
    return found


def refuse_other_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises InvalidRequest where the results are not of the same tasks, asked in the same way."""
    for name in SAME:
        if a["settings"].get(name) != b["settings"].get(name):
            raise InvalidRequest(f"The results cannot be compared: {name} is {a['settings'].get(name)} in one, and "
                                 f"{b['settings'].get(name)} in the other. Ask both models alike.")  # fmt: skip
    if a["tasks"].keys() != b["tasks"].keys():
        only = ", ".join(sorted(a["tasks"].keys() ^ b["tasks"].keys()))
        raise InvalidRequest(f"The results cannot be compared: only one of them has {only}. Ask both models the same.")
    for task, ours in a["tasks"].items():
        for name in ("version", "few_shot"):
            if ours.get(name) != b["tasks"][task].get(name):
                raise InvalidRequest(f"The results cannot be compared: {task} differs in its {name}, {ours.get(name)} "
                                     f"and {b['tasks'][task].get(name)}. Ask both models alike.")  # fmt: skip


def refuse_other_questions(task: str, a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidRequest where two lists of questions are not the same ones."""
    names = [[(each["id"], each["question"], sorted(each["metrics"])) for each in rows] for rows in (a, b)]
    if names[0] != names[1]:
        raise InvalidRequest(f"The results cannot be compared: the questions of {task} are not the same. Ask both "
                             "models the same.")  # fmt: skip


def difference(
    task: str, metric: str, values: tuple[float, float], a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]
) -> Difference:
    """One metric of one task, with its interval where it is a mean or a ratio of sums."""
    name = metric.partition(" ")[0]
    rows = [(x["metrics"][metric], y["metrics"][metric]) for x, y in zip(a, b, strict=True) if metric in x["metrics"]]
    pairs = [(pair_of(name, x), pair_of(name, y)) for x, y in rows]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    whole = Difference(task, metric, len(rows), *values)
    if not known or len(known) < len(pairs):
        return whole
    if all(value in (0.0, 1.0) and weight == 1.0 for each in known for value, weight in each):
        return of_accuracies(whole, [(x[0] > 0, y[0] > 0) for x, y in known])
    mean, error = ratio_and_error([(y[0] - x[0], x[1]) for x, y in known])
    ends = (None, None) if error is None else (mean - Z * error, mean + Z * error)
    return Difference(task, metric, len(rows), *values, mean, *ends)


def of_accuracies(whole: Difference, rows: Sequence[tuple[bool, bool]]) -> Difference:
    """The difference of two accuracies, of questions that are right or wrong for A and for B."""
    better, worse, count = sum(b and not a for a, b in rows), sum(a and not b for a, b in rows), len(rows)
    up, down = (better + 1) / (count + 2), (worse + 1) / (count + 2)
    width = Z * math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    ends = max(up - down - width, -1.0), min(up - down + width, 1.0)
    return Difference(whole.task, whole.metric, count, whole.a, whole.b, (better - worse) / count, *ends,
                      better, worse, mcnemar(better, worse))  # fmt: skip


def mcnemar(better: int, worse: int) -> float:
    """The probability that, of so many questions which only one of two has right, chance alone would give either as
    uneven a share: twice a tail of the binomial distribution with one half."""
    count, least = better + worse, min(better, worse)
    tail = sum(math.exp(log_choose(count, k) - count * math.log(2)) for k in range(least + 1))
    return min(1.0, 2 * tail)


def log_choose(n: int, k: int) -> float:
    """The logarithm of how many ways there are to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
