"""Sequences that decode in one set of slots, and the bytes that these take of the budget."""

from __future__ import annotations

from typing import cast

from elm_mlx.engine.cache.kv import KVCache
from elm_mlx.engine.cache.own_slots import new_slots
from elm_mlx.engine.cache.slots import Slots
from elm_mlx.engine.limits import Limits
from elm_mlx.engine.sequence import Sequence


class Group:
    """Sequences that share Slots; `rows` are those of the slots, None where one is free.

    Every slot is as long as the longest row. What that takes beyond the rows' own reservations is counted too, so that
    the budget holds for the bytes that there are: `surplus` bytes are reserved beside the rows' own, and `idle` bytes
    are those of free slots and of columns that no row needs any more.
    """

    def __init__(self, slots: Slots, limits: Limits) -> None:
        self.slots, self.limits, self.surplus, self.idle = slots, limits, 0, 0
        self.rows: list[Sequence | None] = [None] * len(slots.lengths)
        self.count = len(self.rows)  # the slots that are counted

    def reserve_for(self, *more: Sequence) -> bool:
        """Counts what the slots will take with these sequences beside those that are there; False, and nothing changes,
        where the budget has no room for it. Where there are too few slots they double, or there is one more."""
        positions = [one.positions for one in (*self.rows, *more) if one]
        there = len(self.rows)
        choices = (there,) if len(positions) <= there else (min(2 * there, self.limits.rows), there + 1)
        for self.count in choices:
            surplus, idle = self._beside(positions)
            grown = surplus + idle - self.surplus - self.idle
            if not more or grown <= 0 or self.limits.budget.has_room(grown):
                self.slots.most = max(positions)
                self._count(surplus, idle)
                return True
        return False

    def _beside(self, positions: list[int]) -> tuple[int, int]:
        """The surplus and the idle bytes of `count` slots, for rows of so many positions."""
        used = max(positions) * len(positions)
        columns = max(max(positions), self.slots.room - 1)  # but for the one that is to spare
        unit = self.limits.token_bytes
        return (used - sum(positions)) * unit, (self.count * columns - used) * unit

    def _count(self, surplus: int, idle: int) -> None:
        """Counts these bytes in place of those before."""
        budget = self.limits.budget
        budget.release(self.surplus)
        budget.idle += idle - self.idle
        budget.reserve(surplus)
        self.surplus, self.idle = surplus, idle

    def join(self, sequence: Sequence) -> None:
        """Moves a sequence from its own cache into a slot."""
        assert sequence.cache
        slot = self.slots.join(cast(list[KVCache], sequence.cache), self.count)
        self.rows += [None] * (len(self.slots.lengths) - len(self.rows))
        self.rows[slot], sequence.cache = sequence, None

    def leave(self, sequence: Sequence) -> None:
        """Frees the sequence's slot; the slots of the last one are not counted any more."""
        slot = self.rows.index(sequence)
        self.rows[slot] = None
        self.slots.leave(slot)
        if any(self.rows):
            self.reserve_for()
        else:
            self.drop()

    def drop(self) -> None:
        """Takes all bytes off the budget."""
        self._count(0, 0)


def new_group(limits: Limits, expected: int, grow_by: int, *rows: Sequence) -> Group | None:
    """Slots for these sequences and so many more as are `expected` to come, or as the budget has room for; None where
    that has none for these."""
    for slots in range(min(slots_for(expected), limits.rows), len(rows) - 1, -1):
        group = Group(new_slots(rows[0].cache or (), slots, grow_by), limits)
        if group.reserve_for(*rows):
            return group
    return None


def slots_for(rows: int) -> int:
    """How many slots to make where so many rows are expected: a power of two."""
    return 1 << max(rows - 1, 1).bit_length()
