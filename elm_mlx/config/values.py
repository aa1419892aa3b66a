"""The values of a configuration file: each is read by its key, or refused in a sentence that names file and key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elm_mlx.errors import BadCheckpoint, Unsupported, unsupported

# Limits far above any released model, and far below sizes that would exhaust a machine before they are refused.
MAX_LAYERS, MAX_WIDTH, MAX_VOCAB, MAX_POSITIONS = 1_000, 1_000_000, 10_000_000, 1_000_000_000
MAX_MULTIPLIER, MAX_NUMBER = 1_000.0, 1e12

CONFIG = "config.json"


class Values:
    """The object `raw` of a configuration file; `where` is what errors call that file.

    A missing key and null both mean the default, except in `token_ids`. The methods that read and check a value raise
    BadCheckpoint for an impossible one, and Unsupported for one that elm-mlx does not run.
    """

    def __init__(self, raw: Mapping[str, Any], where: str = CONFIG) -> None:
        self.raw, self.where = raw, where

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, of any kind, not checked."""
        value = self.raw.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int, limit: int, least: int = 1) -> int:
        """The whole number under `key`, from `least` to `limit`; 8.0 counts as 8, as JSON writers disagree."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise self.wrong(f"{key} is {value!r}, where a whole number belongs.")
        if not least <= value <= limit:
            raise self.wrong(f"{key} is {value}, outside {least} to {limit}.")
        return int(value)

    def positive(self, key: str, default: float, most: float = MAX_NUMBER) -> float:
        """The number under `key`, above zero and up to `most`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self.wrong(f"{key} is {value!r}, where a number above 0 and up to {most:g} belongs.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """The true or false under `key`."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(f"{key} is {value!r}, where true or false belongs.")
        return value

    def section(self, key: str) -> Values:
        """The values of the object under `key`; empty where there is none."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(f"{key} is {value!r}, where an object belongs.")
        return Values(value, self.where)

    def token_ids(self, key: str, default: int | None = None) -> tuple[int, ...]:
        """The token ids under `key`: one id, a list of them, or none. Null means none, as -1 does (SentencePiece's
        way to say so), a missing key the default."""
        value = self.raw.get(key, default)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        ids = [i for i in ids if i != -1]
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < MAX_VOCAB for i in ids):
            raise self.wrong(f"{key} is {value!r}, where a token id or a list of them belongs.")
        return tuple(ids)

    def require(self, key: str, known: Sequence[Any]) -> None:
        """Raises Unsupported where `key` has a value that is not among the `known` ones. It may be missing."""
        value = self.raw.get(key)
        if value is not None and value not in known:
            raise self.unsupported(key, value, known)

    def width(self, value: int, key: str) -> int:
        """Returns `value`, a width that was computed from `key`. Raises BadCheckpoint where it is out of bounds."""
        if not 1 <= value <= MAX_WIDTH:
            raise self.wrong(f"{key} gives a width of {value}, outside 1 to {MAX_WIDTH}.")
        return value

    def wrong(self, what: str, remedy: str = "Take the file from the model's own repository.") -> BadCheckpoint:
        """Makes the error for an impossible value; `what` says which and why, `remedy` what to do."""
        return BadCheckpoint(f"{self.where}: {what} {remedy}")

    def unsupported(self, what: str, found: object, known: Iterable[object]) -> Unsupported:
        """Makes the error for `found`, which elm-mlx does not run; its message lists the `known` ones that it runs."""
        return unsupported(f"{self.where}: {what}", found, known)
