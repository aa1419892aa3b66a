"""Reads calls that are written as JSON: {"name": ..., "parameters": {...}}, as the templates of Llama 3.1 to 3.3 do."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from elm_mlx.arguments import is_unicode
from elm_mlx.text.tools.brackets import Brackets

NAME_LENGTH = 256  # characters of a tool's name
MAX_DIGITS = 400  # of a whole number: one of thousands can be said in no further prompt
KEYS = {"name", "parameters", "arguments", "type"}


class Called(NamedTuple):
    """What a call says: the name of a tool, and arguments by their names."""

    name: str
    arguments: Mapping[str, Any]


def finite(digits: str) -> float:
    """A number of a JSON text. Raises ValueError where it is larger than a float can be."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits} is too large")
    return number


def whole(digits: str) -> int:
    """A whole number. Raises ValueError for one of more than MAX_DIGITS."""
    if len(digits) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


def strict_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON (NaN, say), for numbers beyond a float's range or
    with hundreds of digits, and for text that is no Unicode (half of a surrogate pair)."""
    try:
        value = json.loads(text, parse_constant=finite, parse_float=finite, parse_int=whole)
        if "\\" in text and not is_unicode(json.dumps(value, ensure_ascii=False)):
            raise ValueError("no Unicode")
    except RecursionError as error:
        raise ValueError("too deep") from error
    return value


def json_within(text: str) -> Any:
    """The value of a JSON text inside of another one, at most MAX_DEPTH brackets deep. Raises as `strict_json`."""
    brackets = Brackets('"')
    brackets.feed(text)
    if brackets.is_broken:
        raise ValueError("too deep")
    return strict_json(text)


def object_of(value: object) -> Mapping[str, Any] | None:
    """The arguments of a call: an object, or the text of one, as some models write it; null has none."""
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json_within(value)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def called(value: object) -> Called | None:
    """The call that a JSON value is, or None: an object with a name and with parameters (or arguments), and beside them
    at most a type, which is "function"."""
    if not isinstance(value, dict) or not value.keys() <= KEYS or value.get("type", "function") != "function":
        return None
    given = [value[key] for key in ("parameters", "arguments") if key in value]
    name = value.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or len(given) != 1:
        return None
    arguments = object_of(given[0])
    return None if arguments is None else Called(name, arguments)


def read_json(text: str) -> list[Called] | None:
    """The calls of a JSON text: an object, or a list of some; None where it is anything else."""
    try:
        value = strict_json(text)
    except ValueError:
        return None
    found = [called(one) for one in (value if isinstance(value, list) else [value])]
    return [one for one in found if one] if found and all(found) else None
