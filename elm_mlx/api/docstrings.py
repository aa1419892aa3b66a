"""What a docstring says of a function and of its arguments, in the styles of Google, NumPy and Sphinx."""

from __future__ import annotations

import re
from collections.abc import Collection
from inspect import cleandoc

GOOGLE = re.compile(r"(?m)^(?:Args|Arguments|Parameters):[ \t]*\n((?:[ \t]+.*\n?|[ \t]*\n)*)")
NUMPY = re.compile(r"(?m)^Parameters[ \t]*\n-{3,}[ \t]*\n((?:(?!.*\n-{3,}).*\n?)*)")
SPHINX = re.compile(r"(?m)^:param(?:eter)?\s+(?:[^:\n]*?\s)?(\w+):[ \t]*((?:.*)(?:\n[ \t]+.*)*)")
SECTION = re.compile(r"(?m)^(?:[A-Z]\w+(?: \w+)?:[ \t]*$|[A-Z]\w+(?: \w+)?[ \t]*\n-{3,}[ \t]*$|:\w+[^:\n]*:)")
ENTRY = re.compile(r"(\w+)[ \t]*(?:\([^)\n]*\))?[ \t]*:[ \t]*(.*)", re.DOTALL)
NUMPY_ENTRY = re.compile(r"(?m)^(\w+)[ \t]*(?::.*)?\n((?:[ \t]+.*\n?|[ \t]*\n)*)")
INDENT = re.compile(r"[ \t]*")


def one_line(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())


def description_in(docstring: str | None) -> str:
    """What a docstring says before its first section."""
    text = cleandoc(docstring or "")
    found = SECTION.search(text)
    return text[: found.start() if found else None].strip()


def arguments_in(docstring: str | None, names: Collection[str]) -> dict[str, str]:
    """What a docstring says of the arguments with these names."""
    text = cleandoc(docstring or "") + "\n"
    found = dict(SPHINX.findall(text))
    if block := NUMPY.search(text):
        found |= dict(NUMPY_ENTRY.findall(block[1]))
    if block := GOOGLE.search(text):
        found |= dict(google_entries(block[1]))
    return {name: one_line(said) for name, said in found.items() if name in names and said.strip()}


def google_entries(block: str) -> list[tuple[str, str]]:
    """The names in a section of Google's style, and what is said of each: deeper lines go on with the one before."""
    lines = [line for line in block.splitlines() if line.strip()]
    depths = [len(INDENT.match(line)[0]) for line in lines]  # type: ignore[index]
    entries: list[str] = []
    for line, depth in zip(lines, depths, strict=True):
        if depth == depths[0]:
            entries.append(line.strip())
        else:
            entries[-1] += f" {line.strip()}"
    return [(found[1], found[2]) for entry in entries if (found := ENTRY.fullmatch(entry))]
