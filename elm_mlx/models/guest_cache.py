"""The caches of a guest, of all its layers, as one layer of the engine's.

mlx-lm has caches of many kinds in one model: keys and values, rings of them, states of a recurrence. They count
positions each in its own way, and only those with all keys and values can forget some of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import mlx.core as mx

from elm_mlx.errors import CacheFull, CannotTrim

STEP = 256  # positions by which mlx-lm's buffers grow
READ = 2 * STEP  # positions that are read, in shapes alone, to see what buffers take
PLAIN = ("KVCache",)  # mlx-lm's classes that hold all keys and values, each position in its place
EXTRA = 512  # positions that a ring may hold beyond its own, while a chunk of a prompt is read into it


class Network(NamedTuple):
    """A model of mlx-lm's classes, with weights that nobody has read yet, and what makes its empty caches."""

    module: Any
    make_caches: Callable[[], list[Any]]


@dataclass(frozen=True)
class Sizes:
    """What a guest's caches take: `fixed` bytes, and for each cache that grows (bytes of a position, the most positions
    that it holds)."""

    fixed: int
    growing: tuple[tuple[int, int], ...]

    def bytes_of(self, positions: int) -> int:
        """The bytes that all caches take at most, where a request has so many positions."""
        room = STEP * ceil(positions / STEP)
        return self.fixed + sum(each * min(room, most) for each, most in self.growing)

    @property
    def per_position(self) -> int:
        """The bytes that a position takes while all caches grow."""
        return sum(each for each, _ in self.growing)


class GuestCache:
    """mlx-lm's `caches` of all layers for one row, for at most `capacity` positions. With `trims` the last positions
    can be forgotten, if all of the caches are of the plain kind. With `steps_back` rings and states, which cannot
    forget, keep what they held before the last step of one position, so that this one can be forgotten: the engine
    computes a step ahead of an answer's end."""

    def __init__(
        self, caches: list[Any], capacity: int, trims: bool, sizes: Sizes, *, steps_back: bool = False
    ) -> None:
        self.caches, self.capacity, self.sizes = caches, capacity, sizes
        self.trims = trims and all(is_plain(one) for one in leaves(caches))
        self.steps_back = steps_back and not self.trims
        self.offset = 0
        self._before: tuple[int, list[Any]] | None = None  # offset, and copies of the caches that are not plain

    def before(self, count: int) -> None:
        """Gets ready for so many more positions; before a step of one it keeps what is held. Raises CacheFull."""
        self.refuse_beyond(count)
        self._before = None
        if self.steps_back and count == 1:
            self._before = self.offset, [separate(one) for one in leaves(self.caches) if not is_plain(one)]

    def after(self, count: int) -> None:
        """Counts positions that were written."""
        self.offset += count

    def parts(self) -> list[Any]:
        """mlx-lm's caches, one for each layer."""
        return [*leaves(self.caches)]

    def empty(self) -> GuestCache:
        """One like it, of keys and values alone, that holds nothing."""
        return self._filled([(None, None)] * len(self.parts()), 0)

    def of_parts(self, parts: Sequence[Any], length: int) -> GuestCache:
        """One like it with the `keys` and `values` of such parts, which hold `length` positions."""
        return self._filled([(part.keys, part.values) for part in parts], length)

    def _filled(self, arrays: Sequence[tuple[Any, Any]], length: int) -> GuestCache:
        other = copy(self)
        other.caches = [separate(one) for one in self.caches]
        other.offset, other._before = length, None
        for one, (keys, values) in zip(leaves(other.caches), arrays, strict=True):
            one.keys, one.values, one.offset = keys, values, length
        return other

    def refuse_beyond(self, count: int) -> None:
        """Raises CacheFull where so many more positions do not fit."""
        if self.offset + count > self.capacity:
            raise CacheFull(f"The cache holds {self.offset} of {self.capacity} positions; {count} more do not fit. "
                            "Make it larger, or trim it.")  # fmt: skip

    def attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Is never asked: mlx-lm's classes attend by themselves."""
        raise TypeError("A guest's cache belongs to mlx-lm's classes, which attend by themselves.")

    @property
    def can_trim(self) -> int:
        """The most positions that can be trimmed now: all, that of the last step, or none."""
        if self.trims:
            return self.offset
        return self.offset - self._before[0] if self._before else 0

    def trim(self, n: int) -> int:
        """Forgets the last `n` positions, or all if fewer are held, and returns how many it forgot. Raises CannotTrim
        where the caches cannot forget."""
        n = min(max(n, 0), self.offset)
        if n > self.can_trim:
            raise CannotTrim(f"{n} positions are to be forgotten, and the caches of this model cannot forget. Read the "
                             "text again.")  # fmt: skip
        if n and self._before:
            self._step_back(self._before[1])
        for one in leaves(self.caches) if n else ():
            if is_plain(one):
                one.trim(n)
        self.offset -= n
        return n

    def _step_back(self, before: list[Any]) -> None:
        """Gives rings and states what they held before the last step."""
        others = (one for one in leaves(self.caches) if not is_plain(one))
        for one, held in zip(others, before, strict=True):
            vars(one).clear()
            vars(one).update(separate(vars(held)))
        self._before = None

    def resize(self, capacity: int, reserve: int = 0) -> None:
        """Lets the cache hold `capacity` positions."""
        if self.offset > capacity:
            raise CacheFull(f"The cache holds {self.offset} positions, more than the {capacity} that it is to have. "
                            "Trim it first.")  # fmt: skip
        self.capacity = capacity

    def fork(self, n: int, capacity: int | None = None, reserve: int = 0) -> GuestCache:
        """A cache of its own which holds the first `n` positions, or all if fewer are held. Raises CannotTrim where
        that are not all, and the caches cannot forget; CacheFull where `capacity` is below `n`."""
        n = min(n, self.offset)
        other = copy(self)
        other.caches = [separate(one) for one in self.caches]
        if n < self.offset - 1:
            other._before = None
        other.trim(self.offset - n)
        other.resize(n if capacity is None else capacity)
        return other

    @property
    def room(self) -> int:
        """How many positions the buffers have room for."""
        return STEP * max(1, ceil(self.offset / STEP))

    def columns(self, positions: int) -> int:
        """How many columns the buffers have at most, where there are so many positions."""
        return min(positions, max((most for _, most in self.sizes.growing), default=1))

    def arrays(self) -> list[mx.array]:
        """The buffers that exist, so that a caller can evaluate them."""
        return [array for one in leaves(self.caches) for array in arrays_in(vars(one))]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(array.nbytes for array in self.arrays())


def is_plain(one: Any) -> bool:
    """Whether one of mlx-lm's caches holds all keys and values, each position in its place."""
    return type(one).__name__ in PLAIN


def leaves(caches: Sequence[Any]) -> Iterator[Any]:
    """The caches in a list, of which some may be lists of caches themselves (mlx-lm's CacheList)."""
    for one in caches:
        if type(one).__name__ == "CacheList":
            yield from leaves(one.caches)
        else:
            yield one


def arrays_in(value: Any) -> Iterator[mx.array]:
    """The arrays in attributes, lists and tuples."""
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from arrays_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from arrays_in(inner)


def separate(value: Any) -> Any:
    """A cache, or what one holds, as a copy of its own: what is written into one changes nothing in the other."""
    if isinstance(value, mx.array):
        return value[...]  # another array over the same data; MLX copies when either is written
    if isinstance(value, list | tuple):
        return type(value)(separate(inner) for inner in value)
    if isinstance(value, dict):
        return {key: separate(inner) for key, inner in value.items()}
    if hasattr(value, "__dict__") and not isinstance(value, type):
        other = copy(value)
        vars(other).update(separate(vars(value)))
        return other
    return value


def measured(network: Network) -> Sizes:
    """What a network's caches take, by the shapes after one position and after many: nothing is computed."""
    caches = network.make_caches()
    network.module(mx.array([[0]]), cache=caches)
    before = [held_by(one) for one in leaves(caches)]
    network.module(mx.array([[0] * READ]), cache=caches)
    fixed, growing = 0, []
    for one, few in zip(leaves(caches), before, strict=True):
        # A ring holds what was written last, in whatever order: a cache that did not grow past its size is no ring yet
        each, copies = slope(one, few), 1 if is_plain(one) else 2  # before the last step, and after it
        if each:
            most = getattr(one, "max_size", None)
            growing.append((copies * each, most + EXTRA if isinstance(most, int) else sys.maxsize))
        else:
            fixed += copies * held_by(one)
    return Sizes(fixed, tuple(growing))


def held_by(one: Any) -> int:
    """Bytes of one cache's buffers."""
    return sum(array.nbytes for array in arrays_in(vars(one)))


def slope(one: Any, few: int) -> int:
    """The bytes that a position takes in a cache that had `few` bytes after one; 0 for one that does not grow."""
    keys, values = getattr(one, "keys", None), getattr(one, "values", None)
    if isinstance(keys, mx.array) and isinstance(values, mx.array) and keys.ndim == values.ndim == 4:
        return (keys.nbytes + values.nbytes) // keys.shape[2]
    return max(0, held_by(one) - few) // READ
