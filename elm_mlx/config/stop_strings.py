"""Which texts may be stop strings: how many, how long, of what."""

from __future__ import annotations

from elm_mlx.arguments import is_unicode
from elm_mlx.errors import InvalidRequest

MAX_STRINGS, MAX_LENGTH = 16, 256  # strings of one wish, characters of a string; others take 4 or so


def check_stop_strings(value: object) -> tuple[str, ...]:
    """The stop strings of a wish, which is one text, a list of texts, or None; each of them once.

    Raises InvalidRequest for anything else: too many, one that is empty or too long, one that is no valid Unicode.
    """
    given = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise InvalidRequest(f"stop is of type {type(value).__name__}.", "Give {stop} a text, or a list of texts.")
    if len(given) > MAX_STRINGS:
        raise InvalidRequest(f"stop has {len(given)} strings; it may have up to {MAX_STRINGS}.", "Give {stop} fewer.")
    for string in given:
        check_stop_string(string)
    return tuple(dict.fromkeys(given))


def check_stop_string(string: object) -> None:
    """Raises InvalidRequest for what cannot be a stop string."""
    if not isinstance(string, str):
        raise InvalidRequest(f"A string of stop is of type {type(string).__name__}.", "Give {stop} texts alone.")
    if not string:
        raise InvalidRequest("A string of stop is empty, and so every text has it.", "Leave it out of {stop}.")
    if len(string) > MAX_LENGTH:
        raise InvalidRequest(f"A string of stop has {len(string)} characters; it may have up to {MAX_LENGTH}.",
                             "Give {stop} its beginning.")  # fmt: skip
    if not is_unicode(string):
        raise InvalidRequest("A string of stop holds bytes that are not valid text.", "Give {stop} as UTF-8.")
