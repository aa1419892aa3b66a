"""The tasks of OpenELM's paper by name, as groups of lm-eval's tasks.

Source of tasks and numbers of examples: the model card of apple/OpenELM-270M, "Evaluate OpenELM"; the tables of the
paper, arXiv 2404.14619. Neither says which of lm-eval's two accuracies a column shows: the metric named here is the one
that is usual for the task, and a result has the others, too.
"""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """A task of lm-eval's, with how many examples before each question, and which of its metrics counts."""

    task: str
    few_shot: int
    metric: str


SUITES = {
    "openelm-zero-shot": (
        Part("arc_challenge", 0, "acc_norm"),
        Part("arc_easy", 0, "acc_norm"),
        Part("boolq", 0, "acc"),
        Part("hellaswag", 0, "acc_norm"),
        Part("piqa", 0, "acc_norm"),
        Part("sciq", 0, "acc_norm"),
        Part("winogrande", 0, "acc"),
    ),
    "openelm-leaderboard": (
        Part("arc_challenge", 25, "acc_norm"),
        Part("hellaswag", 10, "acc_norm"),
        Part("mmlu", 5, "acc"),
        Part("truthfulqa_mc2", 0, "acc"),
        Part("winogrande", 5, "acc"),
    ),
}
# Where lm-eval keeps these tasks, so that its other 14,000 need not be looked through, which takes ten seconds.
FOLDERS = {
    "arc_challenge": "arc",
    "arc_easy": "arc",
    "boolq": "super_glue/boolq",
    "hellaswag": "hellaswag",
    "mmlu": "mmlu/default",
    "piqa": "piqa",
    "sciq": "sciq",
    "truthfulqa_mc2": "truthfulqa",
    "winogrande": "winogrande",
}
