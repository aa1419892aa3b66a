"""Values of JSON in the fields of a request: null counts as absent, and what has no meaning is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from elm_mlx.arguments import MOST_BITS, shown
from elm_mlx.protocols.refusal import FieldRefused

MAX_ID = 2**31 - 1  # of a token: the bound of the type that holds one


def is_number(value: object) -> bool:
    """Whether a value is a finite number of JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value.bit_length() <= MOST_BITS if isinstance(value, int) else math.isfinite(value)


def number_in(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """A number from `low` to `high`. Raises FieldRefused for anything else."""
    value = body.get(name)
    if value is None or (is_number(value) and low <= value <= high):
        return value
    raise FieldRefused(name, f"{name} is {shown(value)}; it must be a number from {low:g} to {high:g}.")


def whole_in(body: Mapping[str, Any], name: str, low: int | None = None, high: int | None = None) -> int | None:
    """A whole number within bounds; 3.0 is one, as JSON has one kind of number. Raises FieldRefused for anything
    else."""
    value = body.get(name)
    if value is None:
        return None
    fits = is_number(value) and value == int(value)
    if fits and (low is None or value >= low) and (high is None or value <= high):
        return int(value)
    raise FieldRefused(name, f"{name} is {shown(value)}; it must be a whole number{in_words(low, high)}.")


def in_words(low: int | None, high: int | None) -> str:
    """Bounds, as the end of a sentence."""
    if low is None:
        return ""
    return f", {low} or more" if high is None else f" from {low} to {high}"


def flag_in(body: Mapping[str, Any], name: str) -> bool | None:
    """True or false. Raises FieldRefused for anything else."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise FieldRefused(name, f"{name} is {shown(value)}; it must be true or false.")


def as_text(param: str, value: object) -> str:
    """A value that has to be a text of valid Unicode: JSON may also write halves of surrogate pairs. Raises
    FieldRefused, which names `param`."""
    if not isinstance(value, str):
        raise FieldRefused(param, f"{param} is {shown(value)}; it must be a text.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldRefused(param, f"{param} holds half a surrogate pair, which is no text.") from None
    return value
