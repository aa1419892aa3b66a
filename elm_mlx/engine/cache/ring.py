"""Where the positions of a cache lie in its buffers, and which of them a query may read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from elm_mlx.engine.cache.kind import MARGIN, CacheKind

Mask = mx.array | str | None  # [1, 1, L, S], true where a query reads a column; "causal"; None: all columns


class View(NamedTuple):
    """The columns that some queries read, S of them, and the mask that says which query reads which."""

    columns: slice
    mask: Mask


class Ring:
    """The first `sinks` positions in columns of their own, and behind them a ring of `window` + `margin` columns.

    Position p lies in column p, as long as there are so many, and then in the ring's column (p - sinks) modulo its
    size: it overwrites the oldest one, and nothing is ever moved. A query at position p reads the positions from
    p - window + 1 to p, and, where p is below `reach`, the sinks. Keys carry their rotation, so columns need no order.
    The margin lets positions be trimmed, and several be written before their queries read. Without a window the ring
    never closes.

    All layers of a cache share one Ring, so that each mask is made once.
    """

    def __init__(
        self, window: int | None = None, sinks: int = 0, margin: int = MARGIN, reach: int | None = None
    ) -> None:
        self.window, self.sinks, self.margin = window or sys.maxsize, sinks, margin
        self.reach = sys.maxsize if reach is None else reach
        self.size = sys.maxsize if window is None else window + margin  # of the ring alone
        self.columns = self.size if window is None else sinks + self.size
        self._view: tuple[tuple[int, int], View] | None = None  # the last one, and what it was for

    def block(self, start: int) -> int:
        """How many positions can be written from `start` on before a query of these must read: more would overwrite
        what the first query reads."""
        return max(self.columns - start, self.margin, 1)

    def pieces(self, start: int, end: int) -> Iterator[tuple[slice, slice]]:
        """(which of the new positions, their columns) for positions from `start` to `end`, a block at most: one piece,
        or two where they pass the last column."""
        done = start
        while done < end:
            column = self.column(done)
            count = min(end - done, self.columns - column)
            yield slice(done - start, done - start + count), slice(column, column + count)
            done += count

    def column(self, position: int) -> int:
        """The column of a position."""
        if position < self.columns:
            return position
        return self.sinks + (position - self.sinks) % self.size

    def oldest_read(self, position: int) -> int:
        """The first position, the sinks aside, that a query at this position reads."""
        return max(0, position - self.window + 1)

    def view(self, end: int, queries: int) -> View:
        """What the last `queries` of the positions before `end` read."""
        if self._view is None or self._view[0] != (end, queries):
            self._view = (end, queries), self._view_of(end, queries)
        return self._view[1]

    def _view_of(self, end: int, queries: int) -> View:
        """Makes a view: without a mask wherever the columns are all read by every query."""
        first = self.oldest_read(end - queries)  # of all positions that are read
        all_read = self.oldest_read(end - 1) <= (self.sinks if end <= self.reach else 0)
        if all_read and end <= self.columns:
            return View(slice(0, end), "causal" if queries > 1 else None)
        columns = slice(0, min(end, self.columns))
        no_sinks = not self.sinks or (end - queries >= self.reach and first >= self.sinks)
        if no_sinks and self.column(end - 1) - self.column(first) == end - 1 - first:
            columns = slice(self.column(first), self.column(end - 1) + 1)
        readable = self._read_by_one(end) if queries == 1 else self._read_by_each(end, queries)  # [L, columns]
        readable = readable[:, columns]
        return View(columns, None if readable.all() else mx.array(readable)[None, None])

    def _read_by_one(self, end: int) -> np.ndarray:
        """Which columns the last query reads, [1, columns]: without work for each column, as every step asks."""
        readable = np.zeros((1, min(end, self.columns)), np.bool_)
        oldest = self.oldest_read(end - 1)
        begin, stop = self.column(max(self.sinks, oldest)), self.column(end - 1) + 1
        pieces = [slice(begin, stop)] if begin < stop else [slice(begin, None), slice(self.sinks, stop)]
        for piece in (slice(0 if end <= self.reach else min(oldest, self.sinks), self.sinks), *pieces):
            readable[:, piece] = True
        return readable

    def _read_by_each(self, end: int, queries: int) -> np.ndarray:
        """Which columns each of the last queries reads, [L, columns]."""
        positions, asked = self._positions(end), np.arange(end - queries, end)[:, None]
        sinks = (positions < self.sinks) & (asked < self.reach)
        return (positions <= asked) & ((positions > asked - self.window) | sinks)

    def _positions(self, end: int) -> np.ndarray:
        """The position that each column holds, where those before `end` were written."""
        columns = np.arange(min(end, self.columns))
        if end <= self.columns:
            return columns
        last = end - 1 - self.sinks
        return np.where(columns < self.sinks, columns, end - 1 - (last - (columns - self.sinks)) % self.size)


def ring_of(kind: CacheKind) -> Ring:
    """The layout that a kind of cache asks for."""
    return Ring(kind.window, kind.sinks, kind.margin, kind.reach)
