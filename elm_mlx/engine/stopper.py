"""What may end an answer beside stop ids: the engine asks it once an id, and knows no text."""

from __future__ import annotations

from typing import Protocol


class Stopper(Protocol):
    """Watches the ids of one answer as they are drawn."""

    def add(self, token: int) -> str | None:
        """Takes the next id. Returns what ends the answer with it, for `stop_reason`, or None where it goes on."""
        ...
