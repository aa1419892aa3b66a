"""Follows a text to its end: from its first bracket to the one that closes it, whatever stands in strings between
them, or up to some words."""

from __future__ import annotations

import re

LONGEST = 64  # characters of what ends a text
MAX_DEPTH = 48  # of brackets within brackets: messages, in which a call is said again, may have some more
CLOSING = {"{": "}", "[": "]", "(": ")"}
OUTSIDE = {quotes: re.compile(rf"[{re.escape(quotes)}{{}}\[\]()]") for quotes in ('"', "\"'")}
INSIDE = {quote: re.compile(rf"[{quote}\\]") for quote in "\"'"}


class Brackets:
    """The brackets that are open in a text that comes piece by piece. `quotes` are the characters that begin and end a
    string: in a string brackets do not count, and a backslash hides the character after it."""

    def __init__(self, quotes: str) -> None:
        self._outside = OUTSIDE[quotes]
        self._open: list[str] = []  # what closes each open bracket
        self._quote = ""  # what ends the string, inside of one
        self._skip = 0  # characters of the next piece that a backslash hides
        self.is_broken = False  # whether a bracket was closed by a wrong one, or too many are open

    def feed(self, text: str, start: int = 0) -> int | None:
        """Goes on with `text` from the place `start`. Returns the place after the bracket that closes the first one,
        or after the one that is wrong; None where all of the text is read. The time is linear in the text."""
        place, self._skip = start + self._skip, 0
        while found := (INSIDE[self._quote] if self._quote else self._outside).search(text, place):
            place = found.end()
            if found[0] == "\\":
                place += 1
            elif found[0] in "\"'":
                self._quote = "" if self._quote else found[0]
            elif self._turn(found[0]):
                return place
        self._skip = max(place - len(text), 0)
        return None

    def _turn(self, bracket: str) -> bool:
        """Takes a bracket: whether it is the last one."""
        if bracket in CLOSING:
            self._open.append(CLOSING[bracket])
            self.is_broken = len(self._open) > MAX_DEPTH
        else:
            self.is_broken = not self._open or self._open.pop() != bracket
        return self.is_broken or not self._open


class Until:
    """What goes on until a pattern matches, which takes fewer than LONGEST characters, in a text that comes piece by
    piece; \\A in the pattern is where the text begins."""

    is_broken = False

    def __init__(self, pattern: str) -> None:
        self._pattern, self._before = re.compile(pattern), ""
        self._first = 0  # where to look from: 1 once the beginning is gone, so that \A is nowhere

    def feed(self, text: str, start: int = 0) -> int | None:
        """Goes on with `text` from the place `start`. Returns the place after the match; None where there is none."""
        seen = self._before + text[start:]
        found = self._pattern.search(seen, self._first)
        if found:
            return start + found.end() - len(self._before)
        self._first = self._first or int(len(seen) > LONGEST)
        self._before = seen[-LONGEST:]
        return None
