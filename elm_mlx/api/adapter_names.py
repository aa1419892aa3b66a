"""The names of the adapters that a model has loaded."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from elm_mlx.arguments import is_unicode, shown
from elm_mlx.errors import InvalidRequest

LONGEST_NAME = 100  # characters


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter that a model has loaded: the directory it came from, its `kind` ("lora" or "dora"), the largest `rank`
    of its sums, how many `parameters` it has, the name of its `base` where its files say it, and a `fingerprint` of
    its numbers."""

    path: Path
    kind: str
    rank: int
    parameters: int
    base: str | None
    fingerprint: str = ""


class AdapterNames:
    """The adapters of one model by name. Any thread may ask. Whoever loads or unloads one holds `changing`."""

    def __init__(self) -> None:
        self._lock, self.changing = threading.Lock(), threading.Lock()
        self._numbers = count(1)
        self._loaded: dict[str, tuple[int, LoadedAdapter]] = {}

    @property
    def loaded(self) -> dict[str, LoadedAdapter]:
        """What is loaded, by name."""
        with self._lock:
            return {name: facts for name, (_, facts) in self._loaded.items()}

    def next_number(self) -> int:
        """A number that no adapter had before."""
        with self._lock:
            return next(self._numbers)

    def check_new(self, name: Any) -> str:
        """Returns a name that a new adapter may have. Raises InvalidRequest."""
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not is_unicode(name):
            raise InvalidRequest(f"The adapter's name is {shown(name)}; it must be a text of 1 to {LONGEST_NAME} "
                                 "characters.")  # fmt: skip
        with self._lock:
            if name in self._loaded:
                raise InvalidRequest(f"An adapter named {name!r} is loaded already.",
                                     "Unload it first, or give another {name}.")  # fmt: skip
        return name

    def add(self, name: str, number: int, facts: LoadedAdapter) -> None:
        """Gives a loaded adapter its name."""
        with self._lock:
            self._loaded[name] = number, facts

    def remove(self, name: Any) -> int:
        """Takes a name away, and returns the number it stood for. Raises InvalidRequest where none has the name."""
        number = self.number(name)
        assert number
        with self._lock:
            self._loaded.pop(name, None)
        return number

    def fingerprint(self, name: Any) -> str:
        """The fingerprint of the adapter that a call names; "" for none. Raises InvalidRequest where none has the
        name."""
        return self.loaded[name].fingerprint if self.number(name) else ""

    def number(self, name: Any) -> int | None:
        """The number of the adapter that a call names; None for none. Raises InvalidRequest where none has the name."""
        if name is None:
            return None
        with self._lock:
            found = self._loaded.get(name) if isinstance(name, str) else None
            names = [*self._loaded]
        if not found:
            there = f"loaded are {', '.join(map(repr, names))}" if names else "none is loaded"
            raise InvalidRequest(
                f"There is no adapter {shown(name)}; {there}.", "Load it first, or leave {adapter} out."
            )
        return found[0]
