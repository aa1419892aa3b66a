"""The fields of a request that had no effect, as its response and the log tell them."""

from __future__ import annotations

import logging
import re

from elm_mlx.server.sending import Header

log = logging.getLogger("elm_mlx.server")
MOST_IGNORED = 20  # fields in a header
MOST_NOTED = 200  # fields in the log: clients may send ever new ones


def ignored_header(names: tuple[str, ...]) -> list[Header]:
    """The header with the fields that had no effect, if there are any."""
    return [(b"x-ignored-fields", ", ".join(map(shown, names[:MOST_IGNORED])).encode())] if names else []


def shown(name: str) -> str:
    """A field's name without what a header or a log could stumble over."""
    return re.sub(r"[^\w.\[\]-]", "?", name, flags=re.ASCII)[:64]


class Noted:
    """The fields that the log has told of: each once."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, names: tuple[str, ...]) -> None:
        """Tells the log of fields that it has not told of before."""
        for name in map(shown, names[:MOST_IGNORED]):
            if name not in self._names and len(self._names) < MOST_NOTED:
                self._names.add(name)
                log.info("A request has %s, which has no effect: elm-mlx does not know it, or lacks it.", name)
