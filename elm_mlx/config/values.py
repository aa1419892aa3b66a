"""The values of a config.json: read by key, or refused in a sentence that names the key.

A missing key and null mean the default. Raises BadCheckpoint for what cannot be, Unsupported for what we do not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elm_mlx.errors import BadCheckpoint, unsupported

# Far above any released model and far below what would exhaust a machine while being refused.
MAX_LAYERS, MAX_WIDTH, MAX_VOCAB, MAX_POSITIONS = 1_000, 1_000_000, 10_000_000, 1_000_000_000
MAX_MULTIPLIER, MAX_NUMBER = 1_000.0, 1e12


def given(raw: Mapping[str, Any], key: str, default: object) -> Any:
    """What stands under `key`, or the default where that is nothing or null."""
    value = raw.get(key)
    return default if value is None else value


def integer(raw: Mapping[str, Any], key: str, default: int, limit: int, least: int = 1) -> int:
    """The integer under `key`, refused outside least..limit; 8.0 counts as 8, as JSON writers disagree."""
    value = given(raw, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise BadCheckpoint(f"config.json: {key} is {value!r}, where a whole number belongs.")
    if not least <= value <= limit:
        raise BadCheckpoint(f"config.json: {key} is {value}, outside {least} to {limit}; the file is damaged.")
    return int(value)


def positive(raw: Mapping[str, Any], key: str, default: float, most: float = MAX_NUMBER) -> float:
    """The number under `key`, above zero and up to `most`."""
    value = given(raw, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise BadCheckpoint(f"config.json: {key} is {value!r}, where a number above 0 and up to {most:g} belongs.")
    return float(value)


def flag(raw: Mapping[str, Any], key: str, default: bool) -> bool:
    """The true or false under `key`."""
    value = given(raw, key, default)
    if not isinstance(value, bool):
        raise BadCheckpoint(f"config.json: {key} is {value!r}, where true or false belongs.")
    return value


def mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under `key`, empty where there is none."""
    value = given(raw, key, {})
    if not isinstance(value, Mapping):
        raise BadCheckpoint(f"config.json: {key} is {value!r}, where an object belongs.")
    return value


def choice(raw: Mapping[str, Any], key: str, known: Sequence[Any]) -> None:
    """Refuses a value that we do not run; the first of `known` is what a missing key means."""
    value = raw.get(key)
    if value is not None and value not in known:
        raise unsupported(f"config.json: {key}", value, known)


def token_ids(value: object, where: str) -> tuple[int, ...]:
    """One id, a list of ids or nothing, as a tuple; `where` names the place for the message."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < MAX_VOCAB for i in ids):
        raise BadCheckpoint(f"{where} is {value!r}, where a token id or a list of them belongs.")
    return tuple(ids)


def bounded(value: int, key: str) -> int:
    """A width that was reckoned from `key`, refused where it cannot be one."""
    if not 1 <= value <= MAX_WIDTH:
        raise BadCheckpoint(f"config.json: {key} gives a width of {value}, outside 1 to {MAX_WIDTH}.")
    return value
