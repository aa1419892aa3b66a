"""A text that may be a call of a tool, while it still comes."""

from __future__ import annotations

from enum import Enum

from elm_mlx.text.tools.brackets import Brackets, Until
from elm_mlx.text.tools.json_calls import Called
from elm_mlx.text.tools.shapes import Shape

MAX_HEAD = 320  # characters in which a text shows that it may be a call
MAX_CALL = 1 << 24  # characters of a call


class State(Enum):
    """Whether a text is a call: not known yet, yes, or no."""

    OPEN, WHOLE, BROKEN = range(3)


class Candidate:
    """A text that may be calls of one form. Once its `state` is WHOLE, `calls` has what it says. Where it ends does not
    depend on how it was cut into pieces, and the time that it takes is linear in it."""

    def __init__(self, shape: Shape) -> None:
        self.state, self.calls = State.OPEN, list[Called]()
        self._shape = shape
        self._pieces: list[str] = []  # of its text
        self._heard: list[str] = []  # the same, and the marks amid it that are no text
        self._length = 0
        self._head = self._tail = ""
        self._follows = Brackets(shape.quotes) if shape.quotes else Until(shape.until) if shape.until else None
        self._stage = self._take_head
        self._is_closed = False

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._pieces)

    def feed(self, text: str) -> int:
        """Takes more text. Returns how much of it belongs to the candidate: all of it while that stays OPEN."""
        place = self._take(text[: MAX_CALL - self._length])
        self._pieces.append(text[:place])
        return place

    def hear(self, mark: str) -> None:
        """Takes a mark that is no text."""
        self._take(mark)

    def _take(self, text: str) -> int:
        """Takes more text, or a mark. Returns how much of it belongs to the candidate."""
        place = 0
        while place < len(text) and self.state is State.OPEN and not self._is_closed:
            place = self._stage(text, place)
        self._heard.append(text[:place])
        self._length += place
        if self._is_closed:
            self._read()
        elif self._length >= MAX_CALL:
            self.state = State.BROKEN
        return place

    def end(self) -> None:
        """Takes the end of the turn, which makes some forms whole, and breaks the others."""
        if self.state is not State.OPEN:
            return
        lacks_only_tail = self._stage == self._take_tail and not self._tail.strip()
        if lacks_only_tail or (self._stage == self._take_body and not self._shape.quotes):
            self._read()
        else:
            self.state = State.BROKEN

    def _read(self) -> None:
        self.calls = self._shape.read("".join(self._heard)) or []
        self.state = State.WHOLE if self.calls else State.BROKEN

    def _take_head(self, text: str, place: int) -> int:
        """Takes a character of what shows whether this can be a call."""
        self._head += text[place]
        known = self._shape.head(self._head)
        if known:
            self._stage = self._take_body
            if self._follows:
                self._follows.feed(self._head[self._shape.first :])
        elif known is False or len(self._head) == MAX_HEAD:
            self.state = State.BROKEN
        return place + 1

    def _take_body(self, text: str, place: int) -> int:
        """Takes all up to the last bracket, or over the words that end it."""
        end = self._follows.feed(text, place) if self._follows else None
        if end is None or not self._follows:
            return len(text)
        if self._follows.is_broken:
            self.state = State.BROKEN
        else:
            self._stage, self._is_closed = self._take_tail, not self._shape.tail
        return end

    def _take_tail(self, text: str, place: int) -> int:
        """Takes a character of what follows the last bracket."""
        self._tail += text[place]
        tail = self._tail.lstrip()
        self._is_closed = tail == self._shape.tail
        if not self._shape.tail.startswith(tail) or len(self._tail) == MAX_HEAD:
            self.state = State.BROKEN
        return place + 1
