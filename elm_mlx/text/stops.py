"""Several stop strings that are looked for at once, a character at a time (Aho and Corasick, 1975)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

START = 0  # the state of a text of which no end could become a stop string


class Match(NamedTuple):
    """A stop string, and the place in the scanned piece where it begins: below 0 where that was before the piece."""

    begin: int
    string: str


class Stops:
    """Stop strings, compared as exact code points: nothing is normalised.

    A state stands for the longest end of a text that a stop string begins with. So it says how much of the text has to
    be held back, and a character moves from state to state at a cost that does not depend on how many strings there
    are. It never changes, so threads may share it.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self.strings = tuple(dict.fromkeys(strings))
        self.lengths = [0]  # by state: how many characters are held back
        self._moves: list[dict[str, int]] = [{}]  # by state: character to next state
        self._shorter = [START]  # by state: that of the next shorter end which a stop string begins with
        self._whole = [""]  # by state: the longest stop string that the text ends with, if any
        for string in self.strings:
            self._add(string)
        self._link()

    def _add(self, string: str) -> None:
        """Adds the states of a string."""
        state = START
        for character in string:
            following = self._moves[state].setdefault(character, len(self.lengths))
            if following == len(self.lengths):
                self.lengths.append(self.lengths[state] + 1)
                self._moves.append({})
                self._shorter.append(START)
                self._whole.append("")
            state = following
        self._whole[state] = string

    def _link(self) -> None:
        """Links each state to that of the next shorter end, the short states first."""
        waiting = deque(self._moves[START].values())
        while waiting:
            state = waiting.popleft()
            self._whole[state] = self._whole[state] or self._whole[self._shorter[state]]
            for character, following in self._moves[state].items():
                self._shorter[following] = self._next(self._shorter[state], character)
                waiting.append(following)

    def _next(self, state: int, character: str) -> int:
        """The state after one more character."""
        while (following := self._moves[state].get(character)) is None:
            if state == START:
                return START
            state = self._shorter[state]
        return following

    def scan(self, state: int, piece: str) -> tuple[int, Match | None]:
        """Goes on from `state` with a piece of text: (the new state, the stop string that became whole in it).

        Of several the one with the earliest beginning is taken; of those with one beginning the shortest, which is the
        first to be whole.
        """
        match = None
        for place, character in enumerate(piece, 1):
            state = self._next(state, character)
            if string := self._whole[state]:
                begin = place - len(string)
                if match is None or begin < match.begin:
                    match = Match(begin, string)
        return state, match

    def cut(self, text: str) -> str:
        """A whole text, up to its first stop string."""
        if not self.strings:
            return text
        _, match = self.scan(START, text)
        return text[: match.begin] if match else text
