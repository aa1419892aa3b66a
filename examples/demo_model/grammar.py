"""A grammar that writes stories and reads them back.

A grammar file holds variables and rules. `let place from places` declares a variable over a class of the lexicon, or
over a list in another variable's entry (`place.spots`); it is bound where the story first mentions it and keeps its
value to the end. A rule is a name, its parameters and a colon; its alternatives are the lines that begin with a dash.
In an alternative,

    <rule x y>          is another rule, with variables for its parameters
    {x}, {x.past}       is a variable's text, a column of its entry, or an inflection of english.py
    {a colour thing}    has the article that fits, {x.He} a capital
    {@numbers}          is a fresh word of a class

Writing takes one alternative at random; reading tries them all. Both walk the same rules, so a text is read if and
only if it could have been written: every word in its place, and every name, pronoun and object true to its variable.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import english

Entry = dict[str, "str | list[Entry]"]
Bindings = dict[str, Entry]
Option = TypeVar("Option")
INFLECTIONS = {"past": english.past, "ing": english.ing, "plural": english.plural}
AGREEMENT = {
    "one": {"is": "is", "was": "was", "it": "it", "them": "it", "this": "this", "has": "has", "does": "does"},
    "some": {"is": "are", "was": "were", "it": "they", "them": "them", "this": "these", "has": "have", "does": "do"},
}


class NotAStory(ValueError):
    """A text that the grammar could not have written; `place` is where the furthest reading stopped."""

    def __init__(self, text: str, place: int) -> None:
        super().__init__(f"read to ...{text[max(0, place - 60) : place]} | {text[place : place + 40]}")
        self.place = place


class Class:
    """A list of entries to choose from, with indexes of their surface forms for reading."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.distinct = list({id(entry): entry for entry in entries}.values())
        self.counts = Counter(map(id, entries)) if len(self.distinct) < len(entries) else {}
        self.indexes: dict[tuple[str, ...], dict[str, list[Entry]]] = {}
        self.lengths: dict[tuple[str, ...], list[int]] = {}

    def weight(self, entry: Entry) -> int:
        """How often an entry stands in the list: one that stands there twice is twice as likely."""
        return self.counts.get(id(entry), 1)

    def index(self, path: tuple[str, ...], pronouns: Bindings) -> dict[str, list[Entry]]:
        if path not in self.indexes:
            found: dict[str, list[Entry]] = defaultdict(list)
            for entry in self.distinct:
                found[surface(entry, path, pronouns)].append(entry)
            self.indexes[path] = found
            self.lengths[path] = sorted({len(s) for s in found})
        return self.indexes[path]

    def at(self, text: str, place: int, path: tuple[str, ...], pronouns: Bindings) -> Iterator[Entry]:
        """The entries whose surface form stands in the text at a place."""
        index = self.index(path, pronouns)
        for length in self.lengths[path]:
            yield from index.get(text[place : place + length], ())


def surface(entry: Entry, path: tuple[str, ...], pronouns: Bindings) -> str:
    """What an entry looks like: its text, a column, a pronoun, a form that agrees in number, or an inflection."""
    if not path:
        return str(entry["text"])
    name = path[0]
    if name[0].isupper():
        word = surface(entry, (name.lower(), *path[1:]), pronouns)
        return word[0].upper() + word[1:]
    if name in entry:
        return surface({"text": entry[name]}, path[1:], pronouns)
    if "gender" in entry and name in (person := pronouns[str(entry["gender"])]):
        return str(person[name])
    if name in INFLECTIONS:
        return INFLECTIONS[name](str(entry["text"]))
    return AGREEMENT[str(entry.get("number", "one"))][name]


@dataclass(frozen=True)
class Slot:
    """{a colour thing}: an article ("" for none) and terms, each a variable or an @class and a path below it."""

    article: str
    terms: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Call:
    rule: str
    arguments: tuple[str, ...]


Item = str | Slot | Call


@dataclass(frozen=True)
class Rule:
    parameters: tuple[str, ...]
    alternatives: list[str]


@dataclass
class Text:
    """A text being written; `bits` is the information in the choices made."""

    random: random.Random
    written: str = ""
    bits: float = 0.0

    def add(self, piece: str) -> None:
        self.written += joined(self.written, piece)

    def choose(self, options: Sequence[Option], weight: Callable[[Option], int] | None = None) -> Option:
        chosen = self.random.choice(options)
        self.bits += math.log2(len(options) / (weight(chosen) if weight else options.count(chosen)))
        return chosen


def joined(before: str, piece: str) -> str:
    """A piece without its first space where the text ends with a space: an empty alternative leaves no gap."""
    return piece[1:] if piece.startswith(" ") and (not before or before.endswith(" ")) else piece


@dataclass
class Grammar:
    classes: dict[str, Class]
    variables: dict[str, str] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pronouns = {str(e["text"]): e for e in self.classes["pronouns"].entries}
        self.lists: dict[int, Class] = {}
        self.expansion = cache(self.expand)

    def load(self, path: Path) -> Grammar:
        rule: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not words or line.startswith("#"):
                continue
            if words[0] == "let":
                self.variables[words[1]] = words[3]
            elif not line.startswith(" "):
                rule = []
                self.rules[words[0].rstrip(":")] = Rule(tuple(w.rstrip(":") for w in words[1:]), rule)
            elif words[0] == "-":
                rule.append(" ".join(words[1:]))
            else:
                rule[-1] += " " + " ".join(words)
        return self

    def expand(self, call: Call) -> list[tuple[Item, ...]]:
        """A rule's alternatives as items, its parameters replaced."""
        rule = self.rules[call.rule]
        names = dict(zip(rule.parameters, call.arguments, strict=True))
        return [self.items(alternative, names) for alternative in rule.alternatives]

    def items(self, alternative: str, names: dict[str, str]) -> tuple[Item, ...]:
        found: list[Item] = []
        for piece in re.split(r"(\{[^}]+\}|<[^>]+>)", alternative):
            if piece.startswith("<"):
                rule, *arguments = piece[1:-1].split()
                found.append(Call(rule, tuple(self.renamed(a, names) for a in arguments)))
            elif piece.startswith("{"):
                found.append(self.slot(piece[1:-1].split(), names))
            elif piece:
                found.append(piece)
        return tuple(found)

    def renamed(self, path: str, names: dict[str, str]) -> str:
        """A path with a parameter at its head replaced by the argument."""
        head, dot, rest = path.partition(".")
        return names.get(head, head) + dot + rest

    def slot(self, words: list[str], names: dict[str, str]) -> Slot:
        article = words.pop(0) if words[0] in ("a", "A") else ""
        return Slot(article, tuple(self.term(self.renamed(w, names)) for w in words))

    def term(self, path: str) -> tuple[str, tuple[str, ...]]:
        """(the @class or the longest declared variable that a word comes from, the path below it)."""
        parts = path.split(".")
        if path.startswith("@"):
            return parts[0], tuple(parts[1:])
        for count in range(len(parts), 0, -1):
            if (name := ".".join(parts[:count])) in self.variables:
                return name, tuple(parts[count:])
        raise KeyError(f"no variable is called {path}")

    def source(self, name: str) -> tuple[str, str]:
        """(the variable that owns the choices or "", the class or column they are in)."""
        owner, _, column = (name[1:] if name.startswith("@") else self.variables[name]).rpartition(".")
        return owner, column

    def domain(self, name: str, bound: Bindings) -> Class:
        """The entries that a variable or an @class may have, given the bound variables."""
        owner, column = self.source(name)
        if not owner:
            return self.classes[column]
        entries = bound[owner][column]
        assert isinstance(entries, list)
        if id(entries) not in self.lists:
            self.lists[id(entries)] = Class(entries)
        return self.lists[id(entries)]

    # -- writing

    def write(self, seed: int, start: str = "story") -> Text:
        """The text of a seed, and the bits of information in its choices."""
        text, bound = Text(random.Random(f"story {seed}")), Bindings()
        agenda: list[Item] = [Call(start, ())]
        while agenda:
            item = agenda.pop()
            if isinstance(item, str):
                text.add(item)
            elif isinstance(item, Call):
                agenda.extend(reversed(text.choose(self.expansion(item))))
            else:
                text.add(self.fill(item, text, bound))
        text.written = text.written.strip()
        return text

    def fill(self, slot: Slot, text: Text, bound: Bindings) -> str:
        entries = [self.bind(name, text, bound) for name, _ in slot.terms]
        words = " ".join(surface(e, path, self.pronouns) for e, (_, path) in zip(entries, slot.terms, strict=True))
        return with_article(slot, words, entries[-1])

    def bind(self, name: str, text: Text, bound: Bindings) -> Entry:
        if name in bound:
            return bound[name]
        if owner := self.source(name)[0]:
            self.bind(owner, text, bound)
        domain = self.domain(name, bound)
        entry = text.choose(domain.entries, domain.weight)
        if not name.startswith("@"):
            bound[name] = entry
        return entry

    # -- reading

    def read(self, text: str, start: str = "story") -> Bindings:
        """The variables of a story. Raises NotAStory for a text that the grammar could not have written."""
        text, furthest = text.strip() + " ", 0
        states: list[tuple[tuple[Item, ...], Bindings, int]] = [((Call(start, ()),), {}, 0)]
        while states:
            agenda, bound, place = states.pop()
            furthest = max(furthest, place)
            if agenda:
                states.extend(self.readings(agenda[0], agenda[1:], bound, text, place))
            elif not text[place:].strip():
                return bound
        raise NotAStory(text, furthest)

    def readings(
        self, item: Item, rest: tuple[Item, ...], bound: Bindings, text: str, place: int
    ) -> Iterator[tuple[tuple[Item, ...], Bindings, int]]:
        if isinstance(item, str):
            piece = joined(text[max(0, place - 1) : place], item)
            if text.startswith(piece, place):
                yield rest, bound, place + len(piece)
        elif isinstance(item, Call):
            for alternative in self.expansion(item):
                yield (*alternative, *rest), bound, place
        else:
            for new, end in self.match(item, bound, text, place):
                yield rest, new, end

    def match(self, slot: Slot, bound: Bindings, text: str, place: int) -> Iterator[tuple[Bindings, int]]:
        articles = ("a ", "an ", "some ", "A ", "An ", "Some ") if slot.article else ("",)
        for article in articles:
            if text.startswith(article, place):
                start = place + len(article)
                for new, end, last in self.terms(slot.terms, bound, text, start):
                    if with_article(slot, text[start:end], last) == text[place:end]:
                        yield new, end

    def terms(
        self, terms: tuple[tuple[str, tuple[str, ...]], ...], bound: Bindings, text: str, place: int
    ) -> Iterator[tuple[Bindings, int, Entry]]:
        (name, path), rest = terms[0], terms[1:]
        for new, entry in self.candidates(name, path, bound, text, place):
            end = place + len(surface(entry, path, self.pronouns))
            if not rest:
                yield new, end, entry
            elif text.startswith(" ", end):
                yield from self.terms(rest, new, text, end + 1)

    def candidates(
        self, name: str, path: tuple[str, ...], bound: Bindings, text: str, place: int
    ) -> Iterator[tuple[Bindings, Entry]]:
        """The entries that a variable may have if its surface form stands at a place, each with its bindings."""
        if name in bound:
            if text.startswith(surface(bound[name], path, self.pronouns), place):
                yield bound, bound[name]
            return
        for known in self.owners(self.source(name)[0], bound):
            for entry in self.domain(name, known).at(text, place, path, self.pronouns):
                yield known if name.startswith("@") else {**known, name: entry}, entry

    def owners(self, owner: str, bound: Bindings) -> Iterator[Bindings]:
        """The bindings with the variable `owner`, or, while it is free, with each of its entries in turn."""
        if not owner or owner in bound:
            yield bound
            return
        for known in self.owners(self.source(owner)[0], bound):
            for entry in self.domain(owner, known).distinct:
                yield {**known, owner: entry}


def with_article(slot: Slot, words: str, last: Entry) -> str:
    if not slot.article:
        return words
    article = "some" if last.get("number") == "some" else english.article(words)
    return (article if slot.article == "a" else article.capitalize()) + " " + words
