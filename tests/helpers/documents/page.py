"""A page of Markdown as a reader meets it: blocks of code with what is said about them, links, and headings.

A block of `sh` or `python` is run by tests/docs, in the order of the page. A block without a language that begins with
"$ " is a transcript: its commands are run, and what they print is compared. Comments in front of a block say more:

    <!-- given: THING, THING -->   what the reader has by then; helpers.documents.scenery makes it
    <!-- not run: REASON -->       why the block is not run here; the test prints it
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
COMMENTS = re.compile(r"(?:^ *<!--(?:(?!-->).)*-->\n)+\Z", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (given|not run|ci): ?(.*?) -->", re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)>\s]+)>?\)|!\[[^\]]*\]\(([^)\s]+)\)")
RUN = ("sh", "python")
DATA = ("text", "json", "toml", "xml", "ini", "yaml", "swift", "html", "ruby")  # nothing that can be run


@dataclass(frozen=True)
class Block:
    """A fenced block: the word behind its fence, its text without the indent, its line in the page, its marks."""

    kind: str
    text: str
    line: int
    given: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_transcript(self) -> bool:
        """Whether it shows commands and what they print."""
        return self.kind == "" and self.text.startswith("$ ")

    @property
    def is_run(self) -> bool:
        """Whether the tests do what it says."""
        return not self.reason and (self.kind in RUN or self.is_transcript)


@dataclass(frozen=True)
class Page:
    """One document."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        return [read_block(self.text, found) for found in FENCE.finditer(self.text)]

    @cached_property
    def inline(self) -> list[str]:
        """What stands between backquotes in its text, each on one line."""
        return [" ".join(said.split()) for said in re.findall(r"`([^`]+)`", FENCE.sub("", self.text))]

    @cached_property
    def links(self) -> list[str]:
        """What it links to, pictures included."""
        return [link or picture for link, picture in LINK.findall(FENCE.sub("", self.text))]

    @cached_property
    def anchors(self) -> set[str]:
        """The names of its headings, as GitHub and mkdocs make them."""
        return {anchor(heading) for heading in HEADING.findall(FENCE.sub("", self.text))}


def read_block(text: str, found: re.Match[str]) -> Block:
    """A block with the marks in the comments right above it."""
    above = COMMENTS.search(text[: found.start()])
    marks = {kind: " ".join(said.split()) for kind, said in MARK.findall(above[0] if above else "")}
    if re.search(r"<!-- ci:\w+ -->", above[0] if above else ""):
        marks["not run"] = "it installs packages; .ci/run runs it as it stands"
    lines = found["text"].splitlines(keepends=True)
    body = "".join(line.removeprefix(found["indent"]) for line in lines)
    given = tuple(thing.strip() for thing in marks.get("given", "").split(",") if thing.strip())
    return Block(found["kind"], body, text.count("\n", 0, found.start()) + 1, given, marks.get("not run", ""))


def anchor(heading: str) -> str:
    """The name of a heading in an address."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r" ", "-", re.sub(r"[^\w\- ]", "", plain.lower()).strip())


def all_pages() -> list[Page]:
    """The documents of the repository that a reader is led to."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return [Page(path) for path in sorted(found)]
