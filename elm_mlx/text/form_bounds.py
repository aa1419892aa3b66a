"""What would make the compiling of a form explode, found before it begins: llguidance's own limits are counted in its
steps, and some of its steps double with each pattern that is laid over others."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from elm_mlx.errors import NotEnforceable

REPEAT = re.compile(r"\{[\s\d,]*\}|~[\s\d.]*")  # a{2,3} and a~2..3
NUMBER = re.compile(r"\d+")
# The comments, the texts and the regular expressions of a grammar, none of which goes on in the next line.
QUOTED = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"?|(/(?:\\.|[^/\\\n])*/?)')
IGNORED = re.compile(r"\btemperature\s*=")
MOST_REPEATS = 10_000
MOST_LAID_OVER = 12  # patterns that one text has to fit together: from some 16 on compiling takes seconds
MOST_PATTERNS = 40  # of names: each is compared with each other one
MOST_WRITTEN = 4096  # characters of a text in a form: all that is left of it is looked at for each mask
EXACT = 2**53  # all whole numbers below are floats
MOST_STATES = 10_000  # of the automata of all multipleOf


def check_repeats(name: str, text: str) -> None:
    """Raises NotEnforceable for a regular expression or a grammar that repeats something very often. `name` says in
    words what has it."""
    counts = [number for found in REPEAT.findall(text) for number in NUMBER.findall(found)]
    if most := max(counts, key=len, default=""):
        largest = max(int(number) if len(number) < 10 else 10**9 for number in counts)
        if largest > MOST_REPEATS:
            raise NotEnforceable(f"{name} repeats something {most:.20} times; {MOST_REPEATS:,} is the most that can be "
                                 "enforced. Repeat it less often.")  # fmt: skip


def check_lark(text: str) -> None:
    """Raises NotEnforceable for a grammar in Lark's notation that would take too long to compile, that names tokens, or
    that has what would be ignored. What its texts say counts for nothing, only its rules and regular expressions."""
    if "<" in (bare := QUOTED.sub("", text)):
        raise NotEnforceable('The grammar has "<", which names tokens; an answer is made of text. Write that instead.')
    if IGNORED.search(bare):
        raise NotEnforceable("The grammar gives a rule a temperature, which would change nothing. Leave it out.")
    for found in QUOTED.finditer("\n".join(line for line in text.splitlines() if "%json" not in line)):
        if not found[0].startswith("//"):
            check_written("A text or a regular expression of the grammar", found[0])
    rules = QUOTED.sub(lambda found: found[1] or "", text)
    check_repeats("The grammar", rules)
    if rules.count("&") > MOST_LAID_OVER:
        raise NotEnforceable(
            f'The grammar has more than {MOST_LAID_OVER} "&", which cannot be enforced. Leave some out.'
        )


def check_written(name: str, text: str) -> None:
    """Raises NotEnforceable for a text or a regular expression in a form that is so long that its masks would hold up
    other answers: each takes about a microsecond a character. `name` says in words what it is."""
    if len(text) > MOST_WRITTEN:
        raise NotEnforceable(f"{name} has {len(text):,} characters; {MOST_WRITTEN:,} is the most that can be enforced. "
                             "Make it shorter; where an answer is to have a long text, ask for its name.")  # fmt: skip


def states_of(multiple: Any) -> int:
    """How many states the automaton of a multipleOf has: its digits as a number, zeros at the end aside."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float):
        return 0  # llguidance says what is wrong with it
    digits = "".join(map(str, Decimal(repr(multiple)).as_tuple().digits)).rstrip("0")
    return int(digits or 0)


def has_rounded(value: Any) -> bool:
    """Whether a value of JSON has a number in it that llguidance may round. At the least of 64 bits it would even end
    the process."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, int | float) and not isinstance(one, bool) and not is_exact(one):
            return True
    return False


def is_exact(number: float) -> bool:
    """Whether llguidance keeps a number: it has floats, and reads one as a whole number times a power of ten, which is
    exact where both are floats."""
    _, digits, exponent = Decimal(repr(number)).as_tuple()
    return abs(number) < EXACT and int("".join(map(str, digits))) < EXACT and int(exponent) >= -22
