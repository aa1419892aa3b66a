"""Checks of the numbers that callers pass, NumPy's too; and `Progress`, the type of their callbacks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

from elm_mlx.errors import InvalidRequest

Progress = Callable[[int, int], None]
"""A callback that the caller gives: long work calls it with (units done, units in all) after each part."""


def whole_number(name: str, value: object) -> int:
    """Returns a whole number, NumPy's too, as an int. Raises InvalidRequest for all else, true and false included."""
    try:
        return operator.index(value if not isinstance(value, bool) else None)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number.") from None


def real_number(name: str, value: Any) -> Any:
    """Returns a real number unchanged. Raises InvalidRequest for all else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest(f"{name} is {value!r}; it must be a number.")
    return value
