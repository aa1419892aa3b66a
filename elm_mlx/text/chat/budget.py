"""The work that one rendering of a chat template may do: every value that it reads, makes or writes costs units.

An operation that makes much out of little is paid in advance, and one that cannot be paid is not done. Units count
work, not seconds, so that a template ends in one way on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import GeneratorType
from typing import Any

from elm_mlx.text.chat.costs import COSTS, SHALLOW
from elm_mlx.text.chat.see_through import Sight
from elm_mlx.text.chat.units import VALUE_UNITS, Overrun, own_units, units_of


class Budget:
    """The units that one rendering has left, and what pays with them; `sight` shows operations disguised texts."""

    def __init__(self, units: int, sight: Sight) -> None:
        self.left, self.sight = units, sight
        sight.pay = self.pay

    def pay(self, units: int) -> None:
        """Takes `units`, or raises Overrun."""
        self.left -= units
        if self.left < 0:
            raise Overrun

    def pay_new(self, value: Any) -> Any:
        """Pays for a new value and returns it. What it holds is older, and paid already."""
        self.pay(VALUE_UNITS + own_units(value))
        return value

    def pay_whole(self, value: Any) -> Any:
        """Pays for a value and all that it holds, as an operation walks it, and returns it; a generator as a list."""
        value = list(value) if isinstance(value, GeneratorType) else value
        self.pay(units_of(value, self.left))
        return value

    def pay_each(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yields `values`, or the letters of a text, and pays for each as it comes."""
        for value in values:
            self.pay(VALUE_UNITS)
            yield value

    def seen(self, value: Any) -> Any:
        """Pays for a value that is only compared, and returns it without its disguise."""
        return self.sight.reveal(self.pay_whole(value))

    def shown(self, value: Any) -> Any:
        """Pays for a value that is written as text, and returns what to write."""
        return self.sight.text(self.pay_whole(value))

    def run(self, name: str, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Calls the operation `name` and pays for its operands and its result; the first operand is its subject."""
        self.pay(VALUE_UNITS)
        unseen = int(name in SHALLOW)
        args = (*args[:unseen], *map(self.pay_whole, args[unseen:]))
        kwargs = {key: self.pay_whole(value) for key, value in kwargs.items()}
        if name in COSTS:
            self.pay(max(0, int(COSTS[name](*args, **kwargs))))
        result = self.sight.see(name, call, args, kwargs)
        return self.pay_each(result) if isinstance(result, Iterator) else self.pay_new(result)

    def meter(self, name: str, function: Any) -> Callable[..., Any]:
        """Makes a filter or test pay. Where it has Jinja's mark for it, it still gets Jinja's context first."""
        mark = getattr(function, "jinja_pass_arg", None)
        if mark is None:
            return partial(self.run, name, function)

        def call(context: Any, /, *args: Any, **kwargs: Any) -> Any:
            return self.run(name, partial(function, context), *args, **kwargs)

        call.jinja_pass_arg = mark  # type: ignore[attr-defined]
        return call
