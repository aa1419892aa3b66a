"""The stories: a grammar, a lexicon, and which seeds are for training and which are held out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

from grammar import Class, Entry, Grammar, Text

HERE = Path(__file__).parent
HELD_OUT_FROM = 1_000_000_000  # seeds from here on are never trained on
NAME_PARTS = ("starts", "vowels", "middles", "ends")
LISTED_NAMES = 0.8  # the share of names that are in the lexicon; the others are invented
PARTED = {"traits": 2, "hobbies": 2, "small_finds": 2, "landmarks": 2}  # classes dealt to variables that must differ


@cache
def grammar() -> Grammar:
    lexicon = read_lexicon(HERE / "lexicon.txt")
    for name, count in PARTED.items():
        lexicon |= parts(name, lexicon[name], count)
    for place in lexicon["places"]:
        place |= parts("spots", place["spots"], 3)  # type: ignore[arg-type]
    names = {gender: parts("names", lexicon["names_" + gender], 2) for gender in ("she", "he")}
    invented: list[Entry] = [{"text": name} for name in invented_names()]
    for part, role in (("1", "heroes"), ("2", "helpers")):
        of_role = parts("who", lexicon["people"], 2)["who_" + part] + parts("who", lexicon["animals"], 2)["who_" + part]
        own = {gender: mixed(names[gender]["names_" + part], invented) for gender in names}
        lexicon[role] = [
            {**entry, "gender": gender, "names": own[gender]}
            for entry in of_role
            for gender in str(entry["gender"]).split(", ")
        ]
    return Grammar({name: Class(entries) for name, entries in lexicon.items()}).load(HERE / "stories.grammar")


def parts(name: str, entries: list[Entry], count: int) -> dict[str, list[Entry]]:
    """Deals the entries of a class out to `count` classes, so that no two of them share one: name_1, name_2, ..."""
    return {f"{name}_{part + 1}": entries[part::count] for part in range(count)}


def mixed(listed: list[Entry], invented: list[Entry]) -> list[Entry]:
    """Listed and invented names, the listed ones repeated until LISTED_NAMES of all are listed."""
    return listed * round(LISTED_NAMES / (1 - LISTED_NAMES) * len(invented) / len(listed)) + invented


def read_lexicon(path: Path) -> dict[str, list[Entry]]:
    """The lexicon: class name -> entries; the columns `homes` and `spots` hold lists."""
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
    return entries(value) if column in ("homes", "spots") else value


def entries(line: str) -> list[Entry]:
    return [{"text": text.strip()} for text in line.split(",") if text.strip()]


def invented_names() -> list[str]:
    """All names of one or two syllables that the lexicon does not list. From them a model learns to repeat a name that
    it has never seen."""
    lexicon = read_lexicon(HERE / "lexicon.txt")
    listed = {str(entry["text"]) for gender in ("she", "he") for entry in lexicon["names_" + gender]}
    starts, vowels, middles, ends = ([str(e["text"]) for e in lexicon["name_" + part]] for part in NAME_PARTS)
    short = {"".join(syllables) for syllables in product(starts, vowels, middles)}
    long = {"".join(syllables) for syllables in product(starts, vowels, middles, ends)}
    return sorted((short | long) - listed)


def story(seed: int) -> Text:
    return grammar().write(seed)


def training(count: int) -> Iterator[str]:
    return (story(seed).written for seed in range(count))


def held_out(count: int) -> Iterator[str]:
    return (story(HELD_OUT_FROM + seed).written for seed in range(count))
