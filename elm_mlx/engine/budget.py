"""The bytes that all caches of a process may take: what requests reserve, and what is kept beside it until then."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet

from elm_mlx.device.memory import PREFIX_SHARE, too_large


class Yields(Protocol):
    """A store of caches that gives way to requests."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        ...

    @property
    def oldest(self) -> float:
        """When that was last used which it would drop next; infinite where it holds nothing."""
        ...

    def drop_oldest(self) -> int:
        """Drops what was not used for the longest time, and returns its bytes."""
        ...


class Budget:
    """Counts bytes of caches: at most `limit` in all, of which `reserved` belong to requests that run. Free slots take
    `idle` bytes more, which only those requests can use that move into them.

    What is not reserved may be filled by stores, which register, up to `kept` bytes together (by default PREFIX_SHARE
    of the limit). They give way to requests: what was not used for the longest time goes first, in whichever store it
    lies. Only the device thread may use a budget.
    """

    def __init__(self, limit: int, kept: int | None = None) -> None:
        self.limit, self.reserved, self.idle = limit, 0, 0
        self.kept = int(limit * PREFIX_SHARE) if kept is None else kept
        self._stores: WeakSet[Yields] = WeakSet()  # a store that was dropped holds nothing any more

    def register(self, store: Yields) -> None:
        """Counts what this store holds from now on, and lets it give way."""
        self._stores.add(store)

    @property
    def available(self) -> int:
        """Bytes that no request has reserved, those that stores would give up and those of free slots included. Below 0
        where the limit was made smaller."""
        return self.limit - self.reserved

    @property
    def stored(self) -> int:
        """Bytes that all stores hold."""
        return sum(store.nbytes for store in self._stores)

    def has_room(self, nbytes: int) -> bool:
        """Whether a request can reserve so many bytes now, beside all free slots."""
        return nbytes <= self.available - self.idle

    def reserve(self, nbytes: int) -> None:
        """Reserves bytes for which `has_room` has found room; stores give way."""
        self.reserved += nbytes
        self._let_go(max(0, self.available))

    def release(self, nbytes: int) -> None:
        """Gives back what a request had reserved. Raises ValueError for more than is reserved."""
        if nbytes > self.reserved:
            raise ValueError(f"{nbytes} bytes are to be released, and {self.reserved} are reserved.")
        self.reserved -= nbytes

    def make_place(self, nbytes: int) -> bool:
        """Makes room in the stores for so many bytes more. False, and nothing changes, where they can never have
        them."""
        most = min(self.kept, self.available)
        if nbytes > most:
            return False
        self._let_go(most - nbytes)
        return True

    def refuse_impossible(self, nbytes: int, positions: int = 0) -> None:
        """Raises NotEnoughMemory, with the numbers, for a request whose caches can never have room: they take `nbytes`
        bytes for so many positions, if that is given."""
        if nbytes > self.limit:
            raise too_large(nbytes, self.limit, positions)

    def _let_go(self, most: int) -> None:
        """Lets stores drop what is oldest until all hold at most so many bytes."""
        while self.stored > most:
            min(self._stores, key=lambda store: store.oldest).drop_oldest()
