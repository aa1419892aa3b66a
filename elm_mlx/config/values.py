"""The values of a configuration file: each is read by its key, or refused in a sentence that names file and key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from elm_mlx.errors import BadCheckpoint, Unsupported, unsupported

# Far above any released model and far below what would exhaust a machine while being refused.
MAX_LAYERS, MAX_WIDTH, MAX_VOCAB, MAX_POSITIONS = 1_000, 1_000_000, 10_000_000, 1_000_000_000
MAX_MULTIPLIER, MAX_NUMBER = 1_000.0, 1e12

CONFIG = "config.json"


class Values:
    """The object `raw` of a configuration file; `where` is what refusals call that file.

    A missing key and null both mean the default. Readers raise BadCheckpoint for a value that cannot be, and
    Unsupported for one that elm-mlx does not run.
    """

    def __init__(self, raw: Mapping[str, Any], where: str = CONFIG) -> None:
        self.raw, self.where = raw, where

    def get(self, key: str, default: Any = None) -> Any:
        """What stands under `key`, of any kind."""
        value = self.raw.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int, limit: int, least: int = 1) -> int:
        """The whole number under `key`, from `least` to `limit`; 8.0 counts as 8, as JSON writers disagree."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise self.wrong(f"{key} is {value!r}, where a whole number belongs.")
        if not least <= value <= limit:
            raise self.wrong(f"{key} is {value}, outside {least} to {limit}; the file is damaged.")
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
        """The token ids under `key`: one id, a list of them, or none. Null means none, a missing key the default."""
        value = self.raw.get(key, default)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < MAX_VOCAB for i in ids):
            raise self.wrong(f"{key} is {value!r}, where a token id or a list of them belongs.")
        return tuple(ids)

    def require(self, key: str, known: Sequence[Any]) -> None:
        """Refuses a value that elm-mlx does not run; a missing key means the first of the `known` ones."""
        value = self.raw.get(key)
        if value is not None and value not in known:
            raise self.unsupported(key, value, known)

    def width(self, value: int, key: str) -> int:
        """`value`, a width that was computed from `key`, unless it cannot be one."""
        if not 1 <= value <= MAX_WIDTH:
            raise self.wrong(f"{key} gives a width of {value}, outside 1 to {MAX_WIDTH}.")
        return value

    def wrong(self, what: str) -> BadCheckpoint:
        """The refusal of a value that cannot be."""
        return BadCheckpoint(f"{self.where}: {what}")

    def unsupported(self, what: str, found: object, known: Iterable[object]) -> Unsupported:
        """The refusal of a value that elm-mlx does not run, with those that it does."""
        return unsupported(f"{self.where}: {what}", found, known)
