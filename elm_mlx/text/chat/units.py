"""What a value of a chat template costs, in units of work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from jinja2.filters import FILTERS

from elm_mlx.text.chat.messages import MAX_BITS, MAX_DEPTH

VALUE_UNITS = 32  # the cost of a value, about a microsecond and its memory; each of its characters adds one unit
VIEWS: tuple[Any, ...] = (type({}.keys()), type({}.values()), type({}.items()))
LISTS: tuple[Any, ...] = (list, tuple, *VIEWS)
CONTAINERS: tuple[Any, ...] = (dict, *LISTS)
Markup: Any = type(FILTERS["safe"](""))  # a text that is marked as HTML: what is added to one is escaped
COUNTED: tuple[Any, ...] = (range, *CONTAINERS)


class Overrun(Exception):
    """A template needs more work or memory than its budget has."""


def own_units(value: Any) -> int:
    """The units of a value's characters, or of its items without what these hold in turn."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Overrun
    held = VALUE_UNITS * len(value) if isinstance(value, COUNTED) else 0
    return 2 * held if isinstance(value, dict) else held


def units_of(value: object, most: float = float("inf")) -> int:
    """The units of a value with all that it holds, a shared part as often as it is reached. Raises Overrun over `most`.

    Each level of lists in lists is counted before it is entered, so that neither width nor depth can take long.
    """
    total, level = VALUE_UNITS, [value]
    for _ in range(MAX_DEPTH):
        total += sum(map(own_units, level))
        if total > most:
            break
        parts = ((*one, *one.values()) if isinstance(one, dict) else one for one in level)
        level = [item for one in parts if isinstance(one, LISTS) for item in one]
        if not level:
            return total
    raise Overrun


def collision_units(keys: Iterable[Any]) -> int:
    """The units of the comparisons that a set of `keys` makes: those of one hash are compared each with each."""
    different = {repr(key): key for key in keys}
    return sum(number * number for number in Counter(map(hash, different.values())).values())
