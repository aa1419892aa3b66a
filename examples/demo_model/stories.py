"""The stories: a grammar, a lexicon, and which seeds are for training and which are held out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from grammar import Class, Entry, Grammar, Text

HERE = Path(__file__).parent
HELD_OUT_FROM = 1_000_000_000  # seeds from here on are never trained on
NAME_PARTS = ("starts", "vowels", "middles", "ends")
LISTED_NAME_WEIGHT = 40  # a listed name is this many times as likely as an invented one


@cache
def grammar() -> Grammar:
    lexicon = read_lexicon(HERE / "lexicon.txt")
    people_and_animals = lexicon["people"] + lexicon["animals"]
    invented: list[Entry] = [{"text": name} for name in invented_names()]
    names = {g: lexicon["names_" + g] * LISTED_NAME_WEIGHT + invented for g in ("she", "he")}
    lexicon["characters"] = [
        {**entry, "gender": gender, "names": names[gender]}
        for entry in people_and_animals
        for gender in str(entry["gender"]).split(", ")
    ]
    return Grammar({name: Class(entries) for name, entries in lexicon.items()}).load(HERE / "stories.grammar")


def read_lexicon(path: Path) -> dict[str, list[Entry]]:
    """Class name -> entries; the columns whose name is plural hold lists."""
    classes: dict[str, list[Entry]] = {}
    columns: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name, _, header = line[1:].partition("]")
            columns = [c.strip() for c in header.split("|")] if header else []
            classes[name] = []
        elif line and not line.startswith("#") and columns:
            values = [v.strip() for v in line.split("|")]
            classes[name].append(dict(zip(columns, map(cell, columns, values), strict=True)))
        elif line and not line.startswith("#"):
            classes[name] += entries(line)
    return classes


def cell(column: str, value: str) -> str | list[Entry]:
    return entries(value) if column in ("homes", "moves", "spots") else value


def entries(line: str) -> list[Entry]:
    return [{"text": text.strip()} for text in line.split(",") if text.strip()]


def invented_names(count: int = 2000) -> list[str]:
    """Names that nobody bears, so that a model learns to repeat a name it has never seen."""
    lexicon = read_lexicon(HERE / "lexicon.txt")
    listed = {str(entry["text"]) for gender in ("she", "he") for entry in lexicon["names_" + gender]}
    starts, vowels, middles, ends = ([str(e["text"]) for e in lexicon["name_" + part]] for part in NAME_PARTS)
    chance, found = random.Random(0), set[str]()
    while len(found) < count:
        syllables = [chance.choice(starts), chance.choice(vowels), chance.choice(middles), chance.choice(ends)]
        found.add("".join(syllables if chance.random() < 0.75 else syllables[:3]))
        found -= listed
    return sorted(found)


def story(seed: int) -> Text:
    return grammar().write(seed)


def training(count: int) -> Iterator[str]:
    return (story(seed).written for seed in range(count))


def held_out(count: int) -> Iterator[str]:
    return (story(HELD_OUT_FROM + seed).written for seed in range(count))
