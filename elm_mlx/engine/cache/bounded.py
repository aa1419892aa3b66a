"""How many positions a cache may come to hold, whatever its kind."""

from __future__ import annotations

from elm_mlx.errors import CacheFull


class Bounded:
    """The base of a layer's cache: it holds `offset` positions of `capacity`, and when its buffers next grow they get
    room for `reserve` at least."""

    offset: int
    capacity: int
    reserve: int

    def refuse_beyond(self, count: int) -> None:
        """Raises CacheFull where so many more positions do not fit."""
        if self.offset + count > self.capacity:
            raise CacheFull(f"The cache holds {self.offset} of {self.capacity} positions; {count} more do not fit. "
                            "Make it larger, or trim it.")  # fmt: skip

    def resize(self, capacity: int, reserve: int = 0) -> None:
        """Lets the cache hold `capacity` positions; when its buffers next grow, they get room for `reserve` at least.

        Copies nothing: the buffers stay until a write needs room. Raises CacheFull where more is held already.
        """
        if self.offset > capacity:
            raise CacheFull(f"The cache holds {self.offset} positions, more than the {capacity} that it is to have. "
                            "Trim it first.")  # fmt: skip
        self.capacity, self.reserve = capacity, reserve
