"""Rows of different length in one buffer a layer, written by a common clock."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from elm_mlx.engine.cache.attention import attention, heads_and_queries, made_mask
from elm_mlx.engine.cache.kv import RESERVE, KVCache, make_cache


class View:
    """What one step sees of the slots, the same for every layer.

    `rows` are the slots that take part (B of them), `column` is the one that is written, `columns` those that are read
    (S of them). `offset` is the position of the new id in each row, [B], or a number where B is 1. `readable` says
    which columns each row may read, [B, 1, 1, S], or None for all of them.
    """

    def __init__(self) -> None:
        self.rows = self.columns = slice(0, 0)
        self.column = 0
        self.offset: int | mx.array = 0
        self.readable: np.ndarray | None = None
        self.masks: dict[tuple[int, int, mx.Dtype], mx.array] = {}  # by numbers of heads and queries, and type

    def mask(self, heads: int, queries: int, dtype: mx.Dtype) -> mx.array | None:
        """Which columns each row may read, as `attention` takes it of queries of this type, for so many heads and
        queries of each: [B, heads, queries, S], None for all columns. Of mx.bool_ it says so in booleans.

        It is expanded once for all layers of equally many heads: Metal's attention would copy a mask that is broadcast
        over heads in every layer.
        """
        if self.readable is None:
            return None
        form = heads, queries, dtype
        if form not in self.masks:
            B, _, _, S = self.readable.shape
            made = made_mask(self.readable, dtype)
            self.masks[form] = made if B == 1 else mx.contiguous(mx.broadcast_to(made, (B, heads, queries, S)))
        return self.masks[form]


class Move(NamedTuple):
    """Larger buffers, of so many `slots` and columns (`room`): the positions and columns of `pieces` go into the
    columns from `start` on."""

    slots: int
    room: int
    pieces: Sequence[tuple[slice, slice]]
    start: int


class Slots:
    """A slot for each row in one buffer [slots, K, R, D] for the keys and one for the values of every layer.

    A step writes the new keys and values of all rows at once, into column `clock` modulo R, and the clock goes on by
    one. So a row of n positions holds the n columns before the clock. Keys carry their rotation, and attention does not
    ask for an order of columns, so that nothing is moved when the clock passes the last column. A row joins by one copy
    of its own positions, and leaves without any. Where slots or columns are too few, all rows move into larger buffers.
    """

    def __init__(self, layers: int, rows: int = 2, grow_by: int | None = None) -> None:
        self.view = View()
        self.buffers = [SlotLayer(self.view) for _ in range(layers)]  # without a way back, so that they end together
        self.lengths: list[int | None] = [None] * rows  # positions held by each slot; None: it is free
        self.room = self.clock = 0  # R, and the steps so far
        self.is_finite = True  # whether no slot may hold what is no number
        self.grow_by = grow_by
        self.most = sys.maxsize  # positions that a row may come to hold: columns beyond are not made
        self.expects = 0  # positions of the longest row that may soon join

    @property
    def layers(self) -> Sequence[SlotLayer]:
        """The caches of all layers, as a model's attention uses them."""
        return self.buffers

    @property
    def used(self) -> list[int]:
        """The slots that hold a row."""
        return [slot for slot, length in enumerate(self.lengths) if length is not None]

    @property
    def span(self) -> slice:
        """The slots that a step computes: from the first one that holds a row to the last."""
        return slice(self.used[0], self.used[-1] + 1)

    @property
    def longest(self) -> int:
        """The positions of the longest row."""
        return max((length for length in self.lengths if length is not None), default=0)

    @property
    def nbytes(self) -> int:
        """The bytes of all buffers."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.buffers)

    def columns_for(self, positions: int) -> int:
        """How many columns to make for rows of so many positions."""
        if self.grow_by:
            columns = -(-(positions + 1) // self.grow_by) * self.grow_by
        else:
            columns = max(RESERVE, self.room * 2 if positions >= self.room > 0 else self.room)
        return max(positions + 1, min(columns, self.most + 1))

    def join(self, cache: Sequence[KVCache], slots: int = 0) -> int:
        """Moves the one row of a cache into the lowest free slot, and returns the slot; the cache is used up. Where
        none is free, there are then `slots` of them (0: twice as many). What an earlier row has left is overwritten
        where it may be no number: attention weighs columns that a row may not read with 0, and 0 times NaN is NaN."""
        length = cache[0].offset
        slots = len(self.lengths) if None in self.lengths else slots or 2 * len(self.lengths)
        grows = slots > len(self.lengths) or length >= self.room
        move = self._move(slots, self.columns_for(max(length, self.longest)), length) if grows else None
        slot = self.lengths.index(None)
        for layer, row in zip(self.buffers, cache, strict=True):
            if move:
                layer.move(move, row)
            if not self.is_finite:
                layer.wipe(slot)
            layer.write(slot, self._pieces(self.clock - length, length), row)
            if move:  # no more than one layer is in memory twice
                mx.eval(layer.keys, layer.values)
                row.keys = row.values = None
        mx.eval([(layer.keys, layer.values) for layer in self.buffers])
        self.lengths[slot] = length
        return slot

    def leave(self, slot: int) -> None:
        """Frees a slot; nothing is copied."""
        self.lengths[slot] = None

    def copy_out(self, slot: int, length: int) -> list[KVCache]:
        """The first `length` positions of a row as caches of its own, evaluated, so that no later write waits."""
        held = self.lengths[slot]
        assert held is not None
        pieces = list(self._pieces(self.clock - held, length))
        copies = make_cache(len(self.buffers), length, grow_by=self.grow_by or 0)
        for layer, copy in zip(self.buffers, copies, strict=True):
            layer.fill(copy, slot, pieces)
        mx.eval([copy.arrays() for copy in copies])
        return copies

    def begin(self) -> list[int]:
        """Makes room for one more position of every row, and fixes what this step sees. Returns the position of the new
        id in each row."""
        if self.longest >= self.room:
            move = self._move(len(self.lengths), self.columns_for(self.longest))
            for layer in self.buffers:
                layer.move(move)
        view, longest = self.view, self.longest
        view.rows, view.column = self.span, self.clock % self.room
        offsets = [longest if length is None else length for length in self.lengths[view.rows]]
        first = view.column - longest
        view.columns = slice(first, view.column + 1) if first >= 0 else slice(0, self.room)
        view.offset = mx.array(offsets) if len(offsets) > 1 else offsets[0]
        view.readable = self._readable(offsets)
        view.masks.clear()
        return offsets

    def end(self) -> None:
        """Counts the position that a step has written."""
        self.clock += 1
        self.lengths = [None if length is None else length + 1 for length in self.lengths]

    def _readable(self, offsets: list[int]) -> np.ndarray | None:
        """[B, 1, 1, S]: a row of n positions reads the column that is being written, and the n before it."""
        columns = self.view.columns
        if min(offsets) + 1 == columns.stop - columns.start:
            return None
        age = (self.view.column - np.arange(columns.start, columns.stop)) % self.room  # steps since it was written
        return (age <= np.array(offsets)[:, None])[:, None, None]

    def _pieces(self, start: int, length: int) -> Iterator[tuple[slice, slice]]:
        """(positions of a row, columns) of `length` positions that begin at clock `start`: two pieces where they pass
        the last column."""
        done = 0
        while done < length:
            column = (start + done) % self.room
            count = min(length - done, self.room - column)
            yield slice(done, done + count), slice(column, column + count)
            done += count

    def _move(self, slots: int, room: int, length: int = 0) -> Move:
        """Plans larger buffers, in which rows lie in the order of their positions. `length` is that of a row that is
        about to join. Columns stay free before the rows where a longer one is expected: it shall not begin in the last
        columns and go on in the first, as then all columns are read."""
        longest = self.longest
        pieces = list(self._pieces(self.clock - longest, longest)) if longest else []
        self.clock = max(longest, length, min(self.expects, room - 1))
        self.lengths += [None] * (slots - len(self.lengths))
        self.room = room
        return Move(slots, room, pieces, self.clock - longest)


class SlotLayer:
    """One layer of Slots, a models.attention.CacheLayer: keys and values [slots, K, R, D]."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.keys = self.values = mx.zeros((0, 0, 0, 0))  # until the first row joins

    @property
    def offset(self) -> int | mx.array:
        """How many positions each row holds: [B], or a number where there is one row."""
        return self.view.offset

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Writes the new k and v [B, K, 1, D] of every row, and attends over what each row holds: q [B, H, 1, D] ->
        [B, H, 1, D]."""
        keys, values = self.put(k, v)
        mask = self.view.mask(*heads_and_queries(q.shape[1], 1, *keys.shape[1:3]), q.dtype)
        return attention(q, keys, values, mask)

    def put(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Writes the new k and v [B, K, 1, D] of every row, and gives all that this step reads, [B, K, S, D] each."""
        view = self.view
        rows, column = view.rows, view.column
        self.keys[rows, :, column : column + 1] = k
        self.values[rows, :, column : column + 1] = v
        return self.keys[rows, :, view.columns], self.values[rows, :, view.columns]

    def write(self, slot: int, pieces: Iterator[tuple[slice, slice]], row: KVCache) -> None:
        """Copies positions of a row into columns of a slot."""
        for positions, columns in pieces:
            self.keys[slot : slot + 1, :, columns] = row.keys[:, :, positions]  # type: ignore[index]
            self.values[slot : slot + 1, :, columns] = row.values[:, :, positions]  # type: ignore[index]

    def wipe(self, slot: int) -> None:
        """Fills all columns of a slot with zeros."""
        self.keys[slot] = 0
        self.values[slot] = 0

    def fill(self, copy: KVCache, slot: int, pieces: Sequence[tuple[slice, slice]]) -> None:
        """Copies the columns of a slot, in the order of their positions, into an empty cache of one row,
        [1, K, S, D]."""
        length, (_, K, _, D) = pieces[-1][0].stop, self.keys.shape
        # One column more than needed: a write to a whole array would be a part of the slots' buffer, and no copy.
        copy.keys, copy.values = (mx.zeros((1, K, length + 1, D), self.keys.dtype) for _ in range(2))
        for positions, columns in pieces:
            copy.keys[:, :, positions] = self.keys[slot : slot + 1, :, columns]
            copy.values[:, :, positions] = self.values[slot : slot + 1, :, columns]
        copy.offset = length

    def move(self, move: Move, like: KVCache | None = None) -> None:
        """Moves all rows into larger buffers, evaluated. `like` gives the shape of the first ones."""
        source = self.keys if self.keys.size else like.keys if like else None
        assert source is not None
        shape = (move.slots, source.shape[1], move.room, source.shape[3])
        for name in ("keys", "values"):
            old, new = getattr(self, name), mx.zeros(shape, source.dtype)
            for positions, columns in move.pieces:
                new[: len(old), :, move.start + positions.start : move.start + positions.stop] = old[:, :, columns]
            setattr(self, name, new)
        mx.eval(self.keys, self.values)
