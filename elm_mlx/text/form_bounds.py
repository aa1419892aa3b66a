"""What would make the compiling of a form explode, found before it begins: llguidance's own limits are counted in its
steps, and some of its steps double with each pattern that is laid over others."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from elm_mlx.errors import NotEnforceable

REPEAT = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")  # a{2,3} and a~2..3
MOST_REPEATS = 10_000
MOST_LAID_OVER = 12  # patterns that one text has to fit together: from some 16 on compiling takes seconds
MOST_MULTIPLE = 10_000  # whose digits, zeros at the end aside, are states of an automaton


def check_repeats(name: str, text: str) -> None:
    """Raises NotEnforceable for a regular expression or a grammar that repeats something very often. `name` says in
    words what has it."""
    counts = [number for found in REPEAT.findall(text) for number in found if number]
    if most := max(counts, key=len, default=""):
        largest = max(int(number) if len(number) < 10 else 10**9 for number in counts)
        if largest > MOST_REPEATS:
            raise NotEnforceable(f"{name} repeats something {most:.20} times; {MOST_REPEATS:,} is the most that can be "
                                 "enforced.")  # fmt: skip


def check_lark(text: str) -> None:
    """Raises NotEnforceable for a grammar in Lark's notation that would take too long to compile."""
    check_repeats("The grammar", text)
    if text.count("&") > MOST_LAID_OVER:
        raise NotEnforceable(f'The grammar has more than {MOST_LAID_OVER} "&", which cannot be enforced.')


def is_large_multiple(value: Any) -> bool:
    """Whether a multipleOf has so many states that it cannot be enforced."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False  # llguidance says what is wrong with it
    digits = "".join(map(str, Decimal(repr(value)).as_tuple().digits)).rstrip("0")
    return len(digits) > 5 or int(digits or 0) > MOST_MULTIPLE
