"""Checks of the numbers and paths that callers pass; and `Progress`, the type of their callbacks."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

from elm_mlx.errors import InvalidRequest, NotFound

Progress = Callable[[int, int], None]
"""A callback that the caller gives: long work calls it with (units done, units in all) after each part."""


MOST_BITS = 14_000  # of a whole number: Python turns no larger one into a text


def shown(value: object) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python turns no number into a text that has more digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_unicode(text: str) -> bool:
    """Whether a text is valid Unicode. Bytes that are not UTF-8 become halves of surrogate pairs, which are not."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def whole_number(name: str, value: object) -> int:
    """Returns a whole number, NumPy's too, as an int. Raises InvalidRequest for all else, true and false included, and
    for a number of thousands of digits."""
    try:
        number = operator.index(value if not isinstance(value, bool) else None)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a whole number.") from None
    if number.bit_length() > MOST_BITS:
        raise InvalidRequest(f"{name} is a number of thousands of digits; give one of fewer.")
    return number


def real_number(name: str, value: Any) -> Any:
    """Returns a real number unchanged. Raises InvalidRequest for all else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a number.")
    if isinstance(value, int):
        whole_number(name, value)
    return value


def named_path(name: str, value: str | Path) -> Path:
    """Returns the path that the argument `name` gives. Raises InvalidRequest for what is no path, for a NUL or
    half a character in it, and for an empty text, which would mean the working directory and is most often a variable
    of a shell that is not set."""
    if not isinstance(value, str | os.PathLike):
        raise InvalidRequest(f"{name} is {shown(value)}; it must be a path.")
    if not str(value):
        raise InvalidRequest(f"{name} is empty; it must be a path.")
    if "\0" in str(value):
        raise InvalidRequest(f"{name} is {shown(str(value))}; no path holds a NUL.")
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} is {shown(str(value))}; no path holds such a character.") from error
    return Path(value)


def file_to_write(name: str, value: str | Path) -> Path:
    """Returns the path of a file that is to be written, as the argument `name` gives it. Raises InvalidRequest for what
    can be no file, and NotFound where its directory is not there."""
    path = named_path(name, value)
    try:
        is_directory, has_place = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # a name that is too long, a place that may not be looked at
        raise InvalidRequest(f"{shown(str(path))} cannot be a file to write: {error.strerror}.") from error
    if is_directory:
        raise InvalidRequest(f"{path} is a directory; {name} must be a file.")
    if not has_place:
        raise NotFound(f"There is no directory {path.parent} for {name}. Make it first, or name another one.")
    return path
