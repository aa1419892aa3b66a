"""The bytes that all caches of a process may take: what requests reserve, and what is kept beside it until then."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet


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
    """Counts bytes of caches: at most `limit` in all, of which `reserved` belong to requests that run.

    The rest may be filled by stores, which register. Whoever needs room gets it from them: what was not used for the
    longest time goes first, in whichever store it lies. Only the device thread may use a budget.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.reserved = limit, 0
        self._stores: WeakSet[Yields] = WeakSet()  # a store that was dropped holds nothing any more

    def register(self, store: Yields) -> None:
        """Counts what this store holds from now on, and lets it give way."""
        self._stores.add(store)

    @property
    def available(self) -> int:
        """Bytes that requests can still reserve, what stores hold included."""
        return self.limit - self.reserved

    @property
    def free(self) -> int:
        """Bytes that nothing holds and nobody reserved."""
        return self.available - sum(store.nbytes for store in self._stores)

    def reserve(self, nbytes: int) -> bool:
        """Reserves bytes for a request, for which stores give way. False, and nothing changes, where there are too
        few."""
        if not self.make_room(nbytes):
            return False
        self.reserved += nbytes
        return True

    def release(self, nbytes: int) -> None:
        """Gives back what a request had reserved. Raises ValueError for more than is reserved."""
        if nbytes > self.reserved:
            raise ValueError(f"{nbytes} bytes are to be released, and {self.reserved} are reserved.")
        self.reserved -= nbytes

    def make_room(self, nbytes: int) -> bool:
        """Lets stores give way until so many bytes are free. False, and nothing changes, where there are too few."""
        if nbytes > self.available:
            return False
        while self.free < nbytes:
            min(self._stores, key=lambda store: store.oldest).drop_oldest()
        return True
