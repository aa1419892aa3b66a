"""Arguments of a call: numbers of any library become plain ones or are refused, and the form of progress callbacks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

from elm_mlx.errors import InvalidRequest

Progress = Callable[[int, int], None]
"""A callback of the caller's: long work calls it with (done, in all) as it goes on."""


def whole_number(name: str, value: object) -> int:
    """`value` as a whole number, NumPy's too. Raises InvalidRequest for anything else, true and false included."""
    try:
        return operator.index(value if not isinstance(value, bool) else None)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number.") from None


def real_number(name: str, value: Any) -> Any:
    """`value`, if it is a number. Raises InvalidRequest for anything else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest(f"{name} is {value!r}; it must be a number.")
    return value
