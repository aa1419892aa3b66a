"""Cuts the text of an answer into its parts, while it comes: plain text, reasoning, and calls of tools."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from itertools import groupby
from typing import Any, NamedTuple

from elm_mlx.text.marks import Marks
from elm_mlx.text.tools import ToolCall
from elm_mlx.text.tools.candidate import Candidate, State
from elm_mlx.text.tools.coercion import coerced
from elm_mlx.text.tools.json_calls import Called
from elm_mlx.text.tools.shapes import BUILT_IN, JSON, LIST, TAG, TAGS, Shape, dotted, program

TEXT, REASONING, TOOL = "text", "reasoning", "tool"  # the kinds of parts
BLOCK = 1024  # characters that are looked at together: what is left of them is copied at each mark
AFTER_CALL = " \t\r\n;,"  # what may stand between two calls
Schemas = Mapping[str, Mapping[str, Any]]


class Part(NamedTuple):
    """Some text of an answer, of one kind; that of kind "tool" is what the answer has for `call`, and for the calls
    without text that follow."""

    kind: str
    text: str
    call: ToolCall | None = None


def joined(parts: Iterable[Part]) -> list[Part]:
    """The parts, with texts of one kind that follow each other joined; calls stay apart."""
    whole: list[Part] = []
    for (kind, is_call), group in groupby(parts, lambda part: (part.kind, part.call is not None)):
        together = list(group)
        whole += together if is_call else [Part(kind, "".join(part.text for part in together))]
    return whole


class Scan:
    """Looks for marks in a text that comes piece by piece, and holds back only what one may begin with."""

    def __init__(self, marks: Collection[str]) -> None:
        self._pattern = re.compile("|".join(map(re.escape, marks))) if marks else None
        self._starts = {mark[:length] for mark in marks for length in range(1, len(mark))}
        self._longest = max(map(len, self._starts), default=0)

    def split(self, text: str) -> tuple[str, str, str]:
        """(what stands before the first mark, that mark, what follows it); without a mark (what can be in none, an
        empty text, what is to be held back)."""
        if self._pattern and (found := self._pattern.search(text)):
            return text[: found.start()], found[0], text[found.end() :]
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._starts:
                return text[:-length], "", text[-length:]
        return text, "", ""


class CallRules:
    """What is known of calls before the answer: the `schemas` of the tools' parameters, by the names of the tools, and
    the `key` that the ids of the calls are made of."""

    def __init__(self, schemas: Schemas, key: str) -> None:
        names = {*schemas, *BUILT_IN}
        self._schemas, self._key = schemas, key
        self._dotted, self.program = dotted(names), program(names)
        self._first = {name[0] for name in names if name}

    def shape(self, first: str) -> Shape | None:
        """The form of the calls that begin with this character, where the model's turn, or another call, went before;
        None where no call does."""
        return {"{": JSON, "[": LIST, "<": TAGS}.get(first) or (self._dotted if first in self._first else None)

    def call(self, called: Called, number: int) -> ToolCall:
        """Call `number` of an answer, its arguments in the types that the tool's schema asks for."""
        digest = sha256(f"{self._key}/{number}".encode()).hexdigest()[:24]
        return ToolCall(f"call_{digest}", called.name, coerced(called.arguments, self._schemas.get(called.name)))


class Parts:
    """Cuts one answer's text into parts. No character is lost but the marks, and the blanks that follow those of
    reasoning: the texts of all parts, joined, are the rest. How the text was cut into pieces changes nothing.

    Calls are looked for where there are `rules`: at the beginning of the answer, after reasoning, after another call,
    and after the `tool` mark; and those with <function=...>, and with the mark of the model's own wording, anywhere.
    What looks like a call is held back until that is certain; what is none then comes as text, whole and unchanged.
    `is_reasoning` says whether the answer begins inside of reasoning.
    """

    def __init__(self, marks: Marks, rules: CallRules | None = None, is_reasoning: bool = False) -> None:
        self._marks, self._rules, self._inside = marks, rules, is_reasoning
        self._anywhere = {TAG: TAGS, **marks.wording.anywhere} if rules else {}
        shown = {marks.begin, *self._anywhere, *({marks.tool} if rules else ())}.difference(marks.ids.values(), {""})
        self._begins = {mark[0] for mark in self._anywhere if mark in shown}  # with what a form that is anywhere does
        self._opening, self._closing = Scan(shown), Scan({marks.end}.difference(marks.ids.values(), {""}))
        self._lead: list[str] = []  # blanks that may belong to a call
        self._held = ""  # what a mark may begin with
        self._candidate: Candidate | None = None
        self._is_fresh = rules is not None and not is_reasoning  # whether a call may begin here
        self._is_tagged = False  # whether what comes is for a tool, whatever its form
        self._drops_blanks = is_reasoning
        self._count = 0  # of calls
        self._parts: list[Part] = []

    @property
    def kind(self) -> str:
        """The kind of text that comes next, as far as it is known."""
        return REASONING if self._inside else TEXT

    def feed(self, text: str) -> list[Part]:
        """Takes more text, and gives the parts that are certain with it."""
        for place in range(0, len(text), BLOCK):
            rest = text[place : place + BLOCK]
            while rest:
                rest = self._step()(rest)
        return self._given()

    def mark(self, mark: str) -> list[Part]:
        """Takes a mark that is no text. Where it has no meaning it is left out."""
        if mark == (self._marks.end if self._inside else self._marks.begin):
            self._let_go()
            self._turn()
        elif mark == self._marks.tool and self._rules and not self._inside:
            self._tag()
        elif mark in self._anywhere and not self._inside:
            self._open(mark)
        elif self._candidate and mark in self._marks.wording.marks:
            self._candidate.hear(mark)
            self._settle()
        return self._given()

    def end(self, *, is_whole: bool) -> list[Part]:
        """Takes the end of the answer. It `is_whole` where the model ended its turn: a call that was cut is none."""
        while is_whole and self._candidate:
            self._candidate.end()
            self._settle()
        self._let_go()
        return self._given()

    def _given(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return joined(parts)

    def _give(self, kind: str, text: str) -> None:
        if text:
            self._parts.append(Part(kind, text))

    def _let_go(self) -> None:
        """Gives what is held back as what it is without a call. Blanks after a call belong to that."""
        lead = "".join(self._lead)
        self._give(TOOL if self._count and not lead.strip() else self.kind, lead)
        self._give(self.kind, self._held)
        if self._candidate:
            self._give(TEXT, self._candidate.text)
        self._lead, self._held, self._candidate = [], "", None
        self._is_fresh = self._is_tagged = False

    def _turn(self) -> None:
        """Goes into reasoning, or out of it."""
        self._inside = not self._inside
        self._drops_blanks = True
        self._is_fresh = self._rules is not None and not self._inside

    def _tag(self) -> None:
        """Takes the mark after which all is for a tool."""
        self._let_go()
        self._is_fresh = self._is_tagged = True

    def _open(self, mark: str) -> None:
        """Takes the mark, no text, with which a call begins. Blanks before it belong to the call."""
        if self._held or self._candidate:
            self._let_go()
        self._candidate = Candidate(self._anywhere[mark])
        self._candidate.hear(mark)

    def _step(self) -> Callable[[str], str]:
        """What takes the next text, and returns what it leaves of it."""
        if self._drops_blanks:
            return self._drop
        if self._candidate:
            return self._follow
        if self._inside:
            return self._reason
        return self._begin if self._is_fresh and not self._held else self._look

    def _drop(self, text: str) -> str:
        """Leaves out the blanks after a mark."""
        rest = text.lstrip()
        self._drops_blanks = not rest
        return rest

    def _reason(self, text: str) -> str:
        """Takes reasoning, up to its end."""
        before, mark, rest = self._closing.split(self._held + text)
        self._give(REASONING, before)
        self._held = "" if mark else rest
        if mark:
            self._turn()
        return rest if mark else ""

    def _begin(self, text: str) -> str:
        """Takes text where a call may begin."""
        rules = self._rules
        if rules is None:
            return text
        rest = text.lstrip(AFTER_CALL if self._count else None)
        self._lead.append(text[: len(text) - len(rest)])
        if rest[:1] in self._begins and not self._is_tagged:
            return self._look(rest)
        shape = rules.shape(rest[:1]) or (rules.program if self._is_tagged else None)
        if shape and rest:
            self._candidate = Candidate(shape)
        elif rest:
            self._let_go()
        return rest

    def _look(self, text: str) -> str:
        """Takes plain text, up to a mark or to the beginning of a call."""
        before, mark, rest = self._opening.split(self._held + text)
        self._held = "" if mark else rest
        if before or (mark and mark not in self._anywhere):
            held, self._held = self._held, ""
            self._let_go()
            self._held = held
        self._give(TEXT, before)
        if mark in self._anywhere:
            self._candidate = Candidate(self._anywhere[mark])
            self._candidate.feed(mark)
        elif mark and mark == self._marks.tool:
            self._tag()
        elif mark:
            self._turn()
        return rest if mark else ""

    def _follow(self, text: str) -> str:
        """Takes text of what may be a call."""
        taken = self._candidate.feed(text) if self._candidate else 0
        self._settle()
        return text[taken:]

    def _settle(self) -> None:
        """Gives what was held back once it is a call, or none."""
        one, rules = self._candidate, self._rules
        if one is None or rules is None or one.state is State.OPEN:
            return
        if one.state is State.WHOLE:
            self._give_calls("".join(self._lead) + one.text, one.calls, rules)
        elif self._is_tagged:
            self._is_tagged = False
            self._candidate = Candidate(rules.program)
            self._candidate.feed(one.text)
        else:
            self._let_go()

    def _give_calls(self, text: str, calls: list[Called], rules: CallRules) -> None:
        """Gives calls, the first of them with the text of all."""
        for called in calls:
            self._parts.append(Part(TOOL, text, rules.call(called, self._count)))
            self._count, text = self._count + 1, ""
        self._lead, self._candidate = [], None
        self._is_fresh, self._is_tagged = True, False
