"""Transcripts in the documents: their commands, and whether what these print now is what is shown.

Numbers, sizes, commits and what "..." leaves out may differ; so may the places where lines are broken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# What is printed each time, and need not be shown each time.
NOTICES = (
    "MLX runs on its CPU backend here, a stand-in for Metal: right results, speeds that say nothing about a Mac.",
    "No --model given: this is the built-in demo, a small OpenELM that tells short English stories, and knows nothing "
    "else.",
)
STATS = re.compile(r"\d+ \+ \d+ tokens: the first after .*? at most")  # on a terminal, after each answer
HASH = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,40}\b")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?: ?(?:bytes|kB|MB|GB|TB)\b)?")


@dataclass(frozen=True)
class Turn:
    """A command line, what is typed while it runs, and what it prints."""

    command: str
    typed: str
    printed: str


def turns(text: str) -> list[Turn]:
    """The commands of a transcript; lines that begin with "> " are typed."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, rest = part.partition("\n")
        while command.endswith("\\"):
            more, _, rest = rest.partition("\n")
            command = command[:-1] + more
        lines = rest.splitlines()
        typed = "".join(line[2:] + "\n" for line in lines if line.startswith("> "))
        printed = "\n".join(line for line in lines if not line.startswith("> "))
        found.append(Turn(command, typed, printed))
    return found


def settled(text: str, home: Path) -> str:
    """A text without what differs from run to run: one line, with figures and commits as signs."""
    text = " ".join(text.replace(str(home), "~").split())
    for notice in NOTICES:
        text = text.replace(notice, "")
    text = STATS.sub("", text)
    return " ".join(NUMBER.sub("#", HASH.sub("@", text)).split())


def agrees(shown: str, printed: str, home: Path) -> bool:
    """Whether what is printed is what is shown, "..." standing for anything."""
    parts = [re.escape(settled(part, home)) for part in shown.split("...")]
    return re.fullmatch(r"\s*.*?\s*".join(parts), settled(printed, home)) is not None
