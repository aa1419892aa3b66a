"""Requests that are answered together, and how that went: values alone, for both processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Arrival(NamedTuple):
    """One request: the ids of its prompt, how many tokens its answer has, and when it comes: once `after` tokens were
    answered in all. So both programs meet the same requests at the same point of their work, however fast they are."""

    prompt: list[int]
    tokens: int
    after: int = 0


@dataclass(frozen=True)
class Load:
    """Requests in the order in which they come, of which a program answers at most `rows` at a time. With `counted` the
    clock stops once so many tokens were answered after every request had its first, and the rest is dropped."""

    arrivals: Sequence[Arrival]
    rows: int
    counted: int | None = None


class Mark(NamedTuple):
    """A moment of a run: seconds since it began, processor seconds of the whole process, tokens answered so far."""

    seconds: float
    cpu_seconds: float
    tokens: int


class Run(NamedTuple):
    """How a load was answered: when every request had its first token, when it ended, and the most bytes that MLX's
    allocator reached."""

    begun: Mark
    ended: Mark
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """From `begun` to `ended`."""
        return self.ended.seconds - self.begun.seconds

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the whole process from `begun` to `ended`."""
        return self.ended.cpu_seconds - self.begun.cpu_seconds

    @property
    def tokens(self) -> int:
        """Tokens answered from `begun` to `ended`."""
        return self.ended.tokens - self.begun.tokens
