"""The file of requests, read a line at a time, as often as it is asked for."""

from __future__ import annotations

import codecs
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from elm_mlx.arguments import named_path
from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import disk_errors, readable_size
from elm_mlx.jobs.entry import Entry, read_entry
from elm_mlx.jobs.json_line import read_line

PIPED = "-"  # the name of standard input
MAX_PIPED = 2**32  # bytes of a pipe, which is kept on disk; OpenAI takes files of 200 MB
MOST_NAMED = 100  # of the ids that come twice, in one message
CHUNK = 2**20


@dataclass(frozen=True)
class Index:
    """What is known of the requests before a model is loaded: key -> number of its line, in the file's order; and the
    keys of those that need a chat template."""

    lines: dict[str, int]
    chats: frozenset[str]


class Source:
    """Requests in an open file that can be read from its start again; `name` is for messages."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self._file = name, file

    def entries(self) -> Iterator[Entry]:
        """Reads the lines that have something on them, in order, each when it is asked for. Raises ElmError where the
        file cannot be read."""
        with disk_errors(f"{self.name} cannot be read", "Check its permissions.", instead=""):
            self._file.seek(0)
            number = 0
            while (raw := read_line(self._file)) != b"":
                number += 1
                if raw and number == 1:
                    raw = raw.removeprefix(codecs.BOM_UTF8)
                if raw is None or raw.strip():
                    yield read_entry(number, raw)

    def index(self) -> Index:
        """Reads all ids. Raises InvalidRequest where several lines share one, and names these ids and lines."""
        lines: dict[str, int] = {}
        shared: dict[str, list[int]] = {}
        chats = set()
        for entry in self.entries():
            if lines.setdefault(entry.key, entry.number) != entry.number:
                shared.setdefault(entry.key, [lines[entry.key]]).append(entry.number)
            if entry.is_chat:
                chats.add(entry.key)
        if shared:
            raise InvalidRequest(f"Lines of {self.name} share an id: {in_words(shared)}. A line without an id has its "
                                 "number. Give each line an id of its own.")  # fmt: skip
        return Index(lines, frozenset(chats))


def in_words(shared: dict[str, list[int]]) -> str:
    """Names ids and the lines that share them: "a" (lines 1, 4); of very many the first MOST_NAMED."""
    named = [f"{key:.80} (lines {', '.join(map(str, at))})" for key, at in list(shared.items())[:MOST_NAMED]]
    more = [f"and {len(shared) - MOST_NAMED:,} more"] if len(shared) > MOST_NAMED else []
    return ", ".join(named + more)


@contextmanager
def open_source(name: str) -> Iterator[Source]:
    """Opens the requests in a file, or in standard input where the name is -. A pipe is first read to its end into a
    file without a name, as it is read twice. Raises NotFound, InvalidRequest, ElmError for what cannot be read."""
    shown = "Standard input" if name == PIPED else name
    with ExitStack() as stack:
        file = standard_input() if name == PIPED else stack.enter_context(open_file(name))
        if not is_plain_file(file):
            file = stack.enter_context(spool(file, shown))
        yield Source(file, shown)


def open_file(name: str) -> BinaryIO:
    """Opens a file of requests. Raises NotFound, and ElmError for one that cannot be opened."""
    with disk_errors(f"{name} cannot be read", "Check that it is yours.", instead=""):
        try:
            return named_path("IN", name).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"{name} cannot be read: {error.strerror}. Check its name.") from error


def standard_input() -> BinaryIO:
    """The bytes of standard input. Raises InvalidRequest where this process has none."""
    if sys.stdin is None:
        raise InvalidRequest("There is no standard input to read. Name a file.")
    return sys.stdin.buffer


def is_plain_file(file: BinaryIO) -> bool:
    """Whether a file lies on a disk, so that it can be read twice."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file is not getattr(sys.stdin, "buffer", None)
    except OSError:
        return False


def spool(file: BinaryIO, shown: str) -> BinaryIO:
    """Reads a pipe to its end, into a file without a name. Raises InvalidRequest for one of over MAX_PIPED bytes, and
    DiskFull."""
    kept = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    with disk_errors(f"{shown} cannot be kept in {tempfile.gettempdir()}", instead="let TMPDIR name another folder"):
        while chunk := file.read(CHUNK):
            if kept.tell() + len(chunk) > MAX_PIPED:
                raise InvalidRequest(f"{shown} has over {readable_size(MAX_PIPED)}. Split it.")
            kept.write(chunk)
        kept.flush()
    return kept
