"""Caches of ended requests, kept for later ones whose prompts begin with the same ids."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from elm_mlx.device.memory import no_place_to_stay
from elm_mlx.engine.budget import Budget
from elm_mlx.engine.cache.kind import PLAIN, CacheKind
from elm_mlx.engine.cache.kv import RESERVE, cache_bytes
from elm_mlx.engine.cache.layer import Layer, can_shorten

# What lies beyond the shared ids is lost where a cache is handed over; so large a share of them may be. A chat's next
# turn encodes the end of the last answer anew, and an answer that is asked for again drops the old one: neither is
# worth a copy. Chosen, not measured.
LOST_SHARE = 0.25
LAST = 1e12  # seconds: puts what somebody has loaded behind all that was used by chance
OWNED = 3600.0  # seconds: so much longer an owner may think before it asks again; chosen, not measured


@dataclass(eq=False)
class Entry:
    """A kept cache of some `kind`: `ids` (int32) are those of exactly the positions that it holds, those included that
    a window has forgotten. `used` is a time of `time.monotonic`. One that `stays`, since somebody has loaded it, is
    only ever copied, and gives way last. One with an `owner` is copied for all others, and gives way later than if
    anybody might ask again."""

    ids: np.ndarray
    cache: list[Layer]
    nbytes: int
    kind: CacheKind = PLAIN
    stays: bool = False
    used: float = field(default_factory=time.monotonic)
    owner: int | None = None
    adapter: int | None = None

    @property
    def turn(self) -> float:
        """When it gives way: the entry with the least number goes first."""
        return self.used + (LAST if self.stays else OWNED if self.owner is not None else 0)

    def is_like(self, other: Entry) -> bool:
        """Whether this cache and another one are of one kind and adapter."""
        return (self.kind, self.adapter) == (other.kind, other.adapter)

    def can_serve(self, length: int, kind: CacheKind, adapter: int | None = None) -> bool:
        """Whether a request for this kind and adapter can begin with the first `length` positions of this cache."""
        return kind == self.kind and adapter == self.adapter and can_shorten(self.cache, length)


class Found(NamedTuple):
    """A kept cache that begins with the first `shared` ids of a prompt."""

    entry: Entry
    shared: int


class Prefixes:
    """Kept caches, found by their ids. They give way to requests, and what was not used for the longest time goes first
    (Budget). Each has one row and belongs to the store alone until it is handed over."""

    LEAST = 16  # ids that a prompt must share with a cache: fewer are read in no time; chosen, not measured

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.entries: list[Entry] = []
        self.clock: Callable[[], float] = time.monotonic  # machines that answer together have one clock
        budget.register(self)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept caches."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def oldest(self) -> float:
        """When that cache was last used which goes next; infinite where none is kept."""
        return min((entry.turn for entry in self.entries), default=math.inf)

    def find(self, ids: Sequence[int], kind: CacheKind = PLAIN, adapter: int | None = None) -> Found | None:
        """The kept cache of this kind and adapter that shares the most ids with the beginning of a prompt, of several
        the one with the fewest beyond; None where no cache shares LEAST that can still be trimmed to what it shares.
        The prompt's last id is never shared: its logits are needed."""
        wanted = as_ids(ids)[:-1]
        shared = [Found(entry, shared_length(wanted, entry.ids)) for entry in self.entries]
        found = [one for one in shared if one.entry.can_serve(one.shared, kind, adapter)]
        best = max(found, key=lambda one: (one.shared, -len(one.entry.ids)), default=None)
        return best if best and best.shared >= self.LEAST else None

    def borrow(self, found: Found, capacity: int, reserve: int = RESERVE, owner: int | None = None) -> list[Layer]:
        """A cache of `capacity` positions that holds the shared ones: handed over to its owner; to others where little
        is lost by that, or where the request has no room beside it, else copied; one that stays is copied. When its
        buffers grow, they get room for `reserve`.

        Ask before the request reserves its bytes. A copy is not evaluated, and a cache that was handed over may take
        more bytes than its positions need, as its buffers stay.
        """
        lost = len(found.entry.ids) - found.shared
        whose = found.entry.owner
        is_wanted = whose != owner if whose is not None else lost > LOST_SHARE * found.shared
        if found.entry.stays or (is_wanted and self._fits_beside(found.entry, capacity)):
            return self.copy(found, capacity, reserve)
        cache = self.take(found)
        for layer in cache:
            layer.resize(capacity, reserve)
        return cache

    def take(self, found: Found) -> list[Layer]:
        """Hands a kept cache over, trimmed to what is shared; nothing is copied. Raises ValueError where it is kept no
        more."""
        self.entries.remove(found.entry)
        for layer in found.entry.cache:
            layer.trim(layer.offset - found.shared)
        return found.entry.cache

    def copy(self, found: Found, capacity: int, reserve: int = RESERVE) -> list[Layer]:
        """A copy of the shared positions, not evaluated yet, in a cache of `capacity`; the kept cache stays."""
        found.entry.used = self.clock()
        return [layer.fork(found.shared, capacity, reserve) for layer in found.entry.cache]

    def wants(self, nbytes: int) -> bool:
        """Whether a cache of so many bytes may be kept, once its request has given back what it reserved."""
        return nbytes <= self.budget.kept

    def put(
        self,
        ids: Sequence[int],
        cache: Sequence[Layer],
        kind: CacheKind = PLAIN,
        owner: int | None = None,
        adapter: int | None = None,
    ) -> bool:
        """Keeps an evaluated cache of one row, and returns whether it did. `ids` are those of exactly the positions
        held.

        Kept caches of this kind and adapter whose ids begin these ids are dropped, as this one has all of theirs; where
        one holds all of these, it is kept instead. Neither goes for those of another owner, and an owner has one at a
        time. Nothing is dropped for it that gives way later than it does. Raises ValueError where the cache holds
        another number of positions.
        """
        new = Entry(as_ids(ids), [*cache], cache_bytes(cache), kind, used=self.clock(), owner=owner, adapter=adapter)
        if len(new.ids) != cache[0].offset:
            raise ValueError(f"A cache of {cache[0].offset} positions is to be kept with {len(new.ids)} ids.")
        shared = [(entry, shared_length(new.ids, entry.ids)) for entry in self.entries]
        holders = (entry for entry, n in shared if n == len(new.ids) and entry.can_serve(n, kind, adapter))
        if holder := next((entry for entry in holders if owner in (None, entry.owner)), None):
            holder.used = new.used
            return False
        later = sum(entry.nbytes for entry in self.entries if entry.turn > new.turn)
        room = min(self.budget.kept, self.budget.available) - later
        if len(new.ids) < self.LEAST or new.nbytes > room:
            return False
        covered = [entry for entry, n in shared if n == len(entry.ids) and entry.is_like(new) and not entry.stays]
        useless = {entry for entry in covered if entry.owner is None} | self._of(owner)
        self.entries = [entry for entry in self.entries if entry not in useless]
        self.budget.make_place(new.nbytes)
        self.entries.append(new)
        return True

    def disown(self, owner: int) -> None:
        """Keeps an owner's cache for anybody: the owner asks no more."""
        for entry in self._of(owner):
            entry.owner = None

    def _of(self, owner: int | None) -> set[Entry]:
        """The caches of an owner; of None there are none."""
        return {entry for entry in self.entries if owner is not None and entry.owner == owner}

    def drop_oldest(self) -> int:
        """Drops the cache that was not used for the longest time, and returns its bytes."""
        oldest = min(self.entries, key=lambda entry: entry.turn)
        self.entries.remove(oldest)
        return oldest.nbytes

    def shrink(self, to: int) -> int:
        """Drops what is oldest until at most `to` bytes are kept, gives their memory back to the system, and returns
        the bytes dropped."""
        before = self.nbytes
        while self.nbytes > to:
            self.drop_oldest()
        mx.clear_cache()
        return before - self.nbytes

    def load(
        self, ids: Sequence[int] | np.ndarray, cache: Sequence[Layer], kind: CacheKind, adapter: int | None = None
    ) -> None:
        """Keeps a cache that somebody has loaded: it stays when requests use it. Call `make_place_to_load`
        first."""
        new = Entry(as_ids(ids), [*cache], cache_bytes(cache), kind, True, self.clock(), adapter=adapter)
        self.budget.make_place(new.nbytes)
        self.entries.append(new)

    def make_place_to_load(
        self, ids: Sequence[int] | np.ndarray, kind: CacheKind, nbytes: int, adapter: int | None = None
    ) -> None:
        """Lets others go for a cache of so many bytes that is to be loaded: one that was loaded before with equal ids,
        and what is kept of requests. Raises NotEnoughMemory, with the numbers, where it cannot stay beside those that
        were loaded before."""
        rest = [entry for entry in self.entries if not (entry.stays and self._is_same(entry, ids, kind, adapter))]
        others = [entry.nbytes for entry in rest if entry.stays]
        most = max(0, min(self.budget.kept, self.budget.available) - sum(others))
        if nbytes > most:
            raise no_place_to_stay(nbytes, most, len(others))
        self.entries = rest
        self.budget.make_place(nbytes)

    def _is_same(self, entry: Entry, ids: Sequence[int] | np.ndarray, kind: CacheKind, adapter: int | None) -> bool:
        return (entry.kind, entry.adapter) == (kind, adapter) and np.array_equal(entry.ids, as_ids(ids))

    def forget_used(self) -> None:
        """Drops what was kept of requests, and not what somebody has loaded."""
        self.entries = [entry for entry in self.entries if entry.stays]
        mx.clear_cache()

    def forget_adapter(self, adapter: int) -> None:
        """Drops what was kept of requests with an adapter."""
        self.entries = [entry for entry in self.entries if entry.adapter != adapter]
        mx.clear_cache()

    def clear(self) -> int:
        """Drops all caches, gives their memory back to the system, and returns the bytes dropped."""
        return self.shrink(0)

    def _fits_beside(self, entry: Entry, capacity: int) -> bool:
        """Whether a request of `capacity` positions can reserve its bytes without this cache giving way."""
        first = entry.cache[0]
        return self.budget.has_room(entry.nbytes * first.columns(capacity) // first.room + entry.nbytes)


def as_ids(ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Ids as one array of int32."""
    return ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int32, len(ids))


def shared_length(one: Sequence[int] | np.ndarray, other: Sequence[int] | np.ndarray) -> int:
    """How many ids two sequences have in common from their beginning."""
    n = min(len(one), len(other))
    differs = as_ids(one)[:n] != as_ids(other)[:n]
    first = int(differs.argmax()) if n else 0
    return first if n and differs[first] else n
