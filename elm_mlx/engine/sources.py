"""What holds the first ids of a prompt already, and caches that begin with it."""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import NamedTuple

from elm_mlx.engine.batch import Batch
from elm_mlx.engine.cache.layer import Layer, can_shorten
from elm_mlx.engine.prefixes import Found, Prefixes, shared_length
from elm_mlx.engine.sequence import Sequence


class Source(NamedTuple):
    """What holds the first `shared` ids of a prompt: a running `row`, a `kept` cache, or nothing."""

    shared: int = 0
    row: Sequence | None = None
    kept: Found | None = None


class Sources:
    """Where prompts can begin: with kept caches, or with rows of a batch. Nowhere unless it `is_on`."""

    def __init__(self, prefixes: Prefixes, batch: Batch, is_on: bool) -> None:
        self.prefixes, self.batch, self.is_on = prefixes, batch, is_on

    def find(self, one: Sequence, running: List[Sequence]) -> Source:
        """What holds the most of the first ids of its prompt: a kept cache, or a running row."""
        if not self.is_on:
            return Source()
        prompt, finds = one.request.prompt, one.request.find
        found = self.prefixes.find(prompt, one.request.cache, one.request.adapter) if finds else None
        asked = [other for other in running if finds or is_sibling(one, other)]
        lengths = {other: shared_with(one, other) for other in asked}
        best = max(lengths, key=lengths.__getitem__, default=None)
        if best and lengths[best] > (found.shared if found else self.prefixes.LEAST - 1):
            return Source(min(lengths[best], len(prompt) - 1), row=best)
        return Source(found.shared, kept=found) if found else Source()

    def borrow(self, one: Sequence, source: Source, reserve: int) -> list[Layer] | None:
        """Caches that hold the first ids of its prompt: a kept one's, or a copy of a running row's; their
        first buffers have room for `reserve` positions. None where nothing holds any."""
        if source.row:
            return self.batch.copy(source.row, source.shared, one.positions, reserve)
        kept = source.kept
        return self.prefixes.borrow(kept, one.positions, reserve, one.request.owner) if kept else None


def shared_with(one: Sequence, other: Sequence) -> int:
    """How many ids a prompt shares with a running row; 0 where the row's cache is of another kind or adapter, or
    its window has forgotten what the last of them read."""
    if (one.request.cache, one.request.adapter) != (other.request.cache, other.request.adapter):
        return 0
    shared = shared_length(one.request.prompt, held_ids(other))
    copied = min(shared, len(one.request.prompt) - 1)
    return shared if not other.cache or can_shorten(other.cache, copied) else 0


def is_sibling(one: Sequence, other: Sequence) -> bool:
    """Whether two sequences belong to one family of requests."""
    return one.request.family is not None and one.request.family == other.request.family


def held_ids(one: Sequence) -> tuple[int, ...]:
    """The ids whose keys and values a running or ended sequence holds: its prompt, and its answer but for the last."""
    return (*one.request.prompt, *one.ids[:-1])
