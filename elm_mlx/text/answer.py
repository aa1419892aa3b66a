"""The ids of an answer become its parts, while they come: text, reasoning, and calls of tools."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from elm_mlx.text.marks import Marks
from elm_mlx.text.parts import CallRules, Part, Parts, Schemas
from elm_mlx.text.stop_strings import StopStrings

CALLED = ""  # what ends an answer that is over with its first call: no stop string


@dataclass(frozen=True)
class Reading:
    """How an answer is cut into parts: by which `marks`, whether it begins inside of reasoning, and, where calls of
    tools are looked for, the `schemas` of their parameters by the tools' names. Of the `key` the ids of calls are made:
    answers that are read with the same one have the same ids. With `one_call` the answer is over with its first
    call."""

    marks: Marks
    is_reasoning: bool = False
    schemas: Schemas | None = None
    key: str = ""
    one_call: bool = False

    def answer(self, text: StopStrings) -> Answer:
        """What reads one answer, whose text `text` decodes and ends."""
        rules = None if self.schemas is None else CallRules(self.schemas, self.key)
        return Answer(text, Parts(self.marks, rules, self.is_reasoning), self.marks.ids, one_call=self.one_call)


class Answer:
    """Reads the ids of one answer, in parts. The answer's text, and where a stop string ends it, are those of `text`
    (StopStrings), which sees all ids: marks that are tokens without a text change neither. A mark of `ids` counts at
    the place in the text where its id stood. With `one_call` the answer is over with its first call."""

    def __init__(self, text: StopStrings, parts: Parts, ids: Mapping[int, str], *, one_call: bool = False) -> None:
        self._text, self._parts, self._ids, self._one_call = text, parts, ids, one_call
        self._is_over = False  # with its first call
        self._given = 0  # characters
        self._due: deque[tuple[int, str]] = deque()  # marks amid text that is held back, and their places

    @property
    def kind(self) -> str:
        """The kind of the text that comes next, as far as it is known."""
        return self._parts.kind

    def read(self, token: int) -> tuple[list[Part], str | None]:
        """Takes the next id: (the parts that are certain with it; what ends the answer: a stop string, CALLED, or
        None)."""
        text, string = self._text.read(token)
        if (mark := self._ids.get(token)) is not None and string is None:
            self._due.append((self._given + len(text) + self._text.held_length, mark))
        parts = self._cut(text)
        if self._one_call and (calls := [place for place, part in enumerate(parts) if part.call]):
            self._is_over = True
            return parts[: calls[0] + 1], CALLED
        return parts, string

    def end(self, *, is_whole: bool) -> list[Part]:
        """The parts that are still held back, for an answer that has ended. It `is_whole` where the model ended it with
        a stop id: a call that was cut is none."""
        if self._is_over:
            return []
        parts = self._cut(self._text.flush())
        return [*parts, *self._parts.end(is_whole=is_whole)]

    def _cut(self, text: str) -> list[Part]:
        """The parts of more text, with the marks that stand before it, in it, and right after it."""
        parts = []
        while self._due and self._due[0][0] <= self._given + len(text):
            place, mark = self._due.popleft()
            ahead = max(place - self._given, 0)  # unless what was held back has become shorter: broken characters do
            before, text = text[:ahead], text[ahead:]
            self._given += ahead
            parts += [*self._parts.feed(before), *self._parts.mark(mark)]
        self._given += len(text)
        return [*parts, *self._parts.feed(text)]


class FirstCall:
    """Ends an answer with its first call of a tool, or with a stop string of its `text`: an engine.stopper.Stopper."""

    def __init__(self, reading: Reading, text: StopStrings) -> None:
        self.text, self._answer = text, reading.answer(text)

    def add(self, token: int) -> str | None:
        """Takes the next id. Returns what ends the answer with it: a stop string, CALLED, or None."""
        return self._answer.read(token)[1]
