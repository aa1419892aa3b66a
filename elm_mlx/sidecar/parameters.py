"""The parameters of one request: taken by name and kind, so that no mistake passes in silence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from elm_mlx.arguments import shown, whole_number
from elm_mlx.errors import InvalidRequest

T = TypeVar("T")
KINDS = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}


class Parameters:
    """The parameters that a request gives. null counts as not given."""

    def __init__(self, given: Mapping[str, Any], known: Collection[str]) -> None:
        """Raises InvalidRequest for a parameter that is none of the `known` ones."""
        refuse_unknown("parameter", given, known)
        self._given = {name: value for name, value in given.items() if value is not None}

    def get(self, name: str, kind: type[T]) -> T | None:
        """A text, an object, a list, or true or false; None where it is not given. Raises InvalidRequest for anything
        else."""
        value = self._given.get(name)
        if value is None or isinstance(value, kind):
            return value
        raise InvalidRequest(f"{name} is {shown(value)}; it must be {KINDS[kind]}.")

    def need(self, name: str, kind: type[T]) -> T:
        """As `get`, for a parameter that must be given. Raises InvalidRequest."""
        value = self.get(name, kind)
        if value is None:
            raise InvalidRequest(f"{name} is missing; it must be {KINDS[kind]}.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(name, bool)
        return default if value is None else value

    def number(self, name: str) -> int | None:
        """A whole number, None where it is not given. Raises InvalidRequest for anything else."""
        value = self._given.get(name)
        return None if value is None else whole_number(name, value)

    def raw(self, name: str, default: Any = None) -> Any:
        """What is given, for a reader that judges it."""
        return self._given.get(name, default)

    def subset(self, names: Collection[str]) -> dict[str, Any]:
        """Those of these names that are given."""
        return {name: self._given[name] for name in names if name in self._given}


def refuse_unknown(what: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises InvalidRequest for a name that is not `known`."""
    for name in given:
        if name not in known:
            near = get_close_matches(name[:80], known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known) or 'none'}."
            raise InvalidRequest(f"There is no {what} {shown(name)}. {hint}")
