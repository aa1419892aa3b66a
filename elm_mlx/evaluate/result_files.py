"""Files of results, read as a stranger's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elm_mlx.errors import InvalidRequest
from elm_mlx.evaluate.errors_of_means import is_finite
from elm_mlx.evaluate.run import FORM
from elm_mlx.files import read_bytes

MOST_BYTES = 2**30


def read_result(path: Path) -> dict[str, Any]:
    """A result of `evaluate` in a file. Raises NotFound; InvalidRequest, BadCheckpoint for anything else."""
    try:
        value = json.loads(read_bytes(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not valid JSON. Name a file that `elm-mlx eval --json` wrote.") from error
    if not is_result(value):
        raise InvalidRequest(f"{path} is not a result of `elm-mlx eval --json`, or of another version. Write it again.")
    return dict(value)


def is_result(value: Any) -> bool:
    """Whether a value has the form of a result, as far as `compare` reads it."""
    if not isinstance(value, dict) or value.get("form") != FORM:
        return False
    tasks, questions = value.get("tasks"), value.get("questions")
    if not (isinstance(value.get("settings"), dict) and isinstance(tasks, dict) and isinstance(questions, dict)):
        return False
    return (
        tasks.keys() == questions.keys()
        and all(map(is_task, tasks.values()))
        and all(map(are_rows, questions.values()))
    )


def is_task(value: Any) -> bool:
    """Whether a value is a task's metrics."""
    metrics = value.get("metrics") if isinstance(value, dict) else None
    return isinstance(metrics, dict) and all(
        isinstance(each, dict) and is_value(each.get("value")) for each in metrics.values()
    )


def is_value(value: Any) -> bool:
    """Whether a value is a number that a metric can have: NaN too, but no whole number beyond all floats."""
    return isinstance(value, float) or is_finite(value)


def are_rows(value: Any) -> bool:
    """Whether a value is a list of questions."""
    return isinstance(value, list) and all(
        isinstance(each, dict) and isinstance(each.get("metrics"), dict) and {"id", "question"} <= each.keys()
        for each in value
    )
