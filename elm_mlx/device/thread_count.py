"""Who decides the number of threads that the BLAS takes for a product: there is one number for the whole process."""

from __future__ import annotations

from weakref import WeakSet

from elm_mlx.device.blas import blas_threads, fast_blas

KEPT = "The BLAS stays at {} a product, as a model set it that is loaded already; this one may be slower by that."


class ThreadsInUse:
    """Keeps the number of the BLAS's threads that a model computes with: no later model changes it before `end`, or
    before the last Execution with this object is gone. So a model that was dropped and not closed keeps nothing."""

    def __init__(self, number: int) -> None:
        self.number = number
        _in_use.add(self)

    def end(self) -> None:
        """Lets the number go; a later model may set another."""
        _in_use.discard(self)

    def why_not(self, wanted: int) -> str | None:
        """A sentence for the user of a model that would have `wanted` threads, where it does not get them."""
        if self.number == wanted:
            return None
        return KEPT.format("one thread" if self.number == 1 else f"{self.number} threads")


_in_use: WeakSet[ThreadsInUse] = WeakSet()


def take_threads(wanted: int) -> ThreadsInUse:
    """Sets the BLAS to so many threads a product, unless a model that is loaded already computes with another number.
    The reference BLAS has none to set, and gives every model what it wants."""
    first = next(iter(_in_use), None) if fast_blas() else None
    if first is None:
        blas_threads()[1](wanted)
    return ThreadsInUse(first.number if first else wanted)
