"""A model and its adapters, as the engine sees them: which model computes rows with which adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from elm_mlx.engine.decodes import Decodes
from elm_mlx.errors import InvalidRequest


class Adapts(Protocol):
    """Models that are one model with adapters, which have numbers (models.rack.Rack)."""

    def __contains__(self, number: object) -> bool:
        """Whether there is an adapter of this number."""
        ...

    def alone(self, number: int) -> Decodes:
        """The model with one adapter for all rows."""
        ...

    def mixed(self, numbers: Sequence[int | None]) -> Decodes:
        """The model with each row's own adapter, None for none. It serves these rows until it is asked for others."""
        ...

    def drop(self, number: int) -> None:
        """Takes an adapter away."""
        ...


class Variants:
    """The `plain` model, and that with `adapters`, once some are loaded. Those that are `leaving` serve the requests
    that use them, and no more."""

    def __init__(self, plain: Decodes) -> None:
        self.plain = plain
        self.adapters: Adapts | None = None
        self.leaving: set[int] = set()

    def has(self, number: int | None) -> bool:
        """Whether a new request may use an adapter; None is that of no adapter."""
        return number is None or (self.adapters is not None and number in self.adapters and number not in self.leaving)

    def check(self, number: int | None) -> None:
        """Raises InvalidRequest for an adapter that was unloaded after a request had named it."""
        if not self.has(number):
            raise InvalidRequest("The adapter was unloaded before this request came to its turn. Load it again, and "
                                 "ask again.")  # fmt: skip

    def of(self, number: int | None) -> Decodes:
        """The model for rows that all have this adapter."""
        if number is None:
            return self.plain
        assert self.adapters
        return self.adapters.alone(number)

    def of_rows(self, numbers: Sequence[int | None]) -> Decodes:
        """The model for these rows, each with its own adapter; for the next step of these rows alone."""
        if len(found := set(numbers)) == 1:
            return self.of(found.pop())
        assert self.adapters
        return self.adapters.mixed(numbers)

    def leave(self, number: int, used: set[int | None]) -> None:
        """Lets an adapter leave, as soon as it is not among those that are `used`."""
        self.leaving.add(number)
        self.sweep(used)

    def sweep(self, used: set[int | None]) -> None:
        """Drops the adapters that are leaving and not used any more."""
        for number in self.leaving - used:
            self.leaving.discard(number)
            assert self.adapters
            self.adapters.drop(number)
