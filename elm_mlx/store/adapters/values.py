"""Values of an adapter's configuration, which may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elm_mlx.arguments import shown
from elm_mlx.errors import BadCheckpoint

MOST_SCALE = 1e6


def number_of(path: Path, name: str, value: Any) -> float:
    """A number that a sum may be multiplied with. Raises BadCheckpoint for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or abs(value) > MOST_SCALE:
        raise BadCheckpoint(f"{path}: {name} is {shown(value)}; it must be a number of at most {MOST_SCALE:g}.")
    return float(value)


def rank_of(path: Path, name: str, value: Any) -> int:
    """A rank. Raises BadCheckpoint for what is no whole number above 0."""
    if type(value) is not int or value < 1:
        raise BadCheckpoint(f"{path}: {name} is {shown(value)}; it must be a whole number above 0.")
    return value


def object_of(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    """An object of JSON; an empty one for null. Raises BadCheckpoint for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path}: {name} is {shown(value)}; it must be an object.")
    return value


def text_of(value: Any) -> str | None:
    """A text, None for anything else: for what is only shown."""
    return value if isinstance(value, str) and value else None
