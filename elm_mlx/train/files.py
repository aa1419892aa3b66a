"""The rows of a data directory: train.jsonl and valid.jsonl, read a line at a time, bad ones refused by line."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import disk_errors
from elm_mlx.jobs.json_line import parse_line, read_line
from elm_mlx.train.examples import Example
from elm_mlx.train.rows import RowReader, cut

TRAIN, VALID = "train.jsonl", "valid.jsonl"
MOST_NAMED = 5  # bad rows of one file in a message


@dataclass(frozen=True)
class Rows:
    """The examples of one file. `cut` of them were longer than what the model is to see, and `ids_cut` ids of these are
    not learned; `dropped` rows had no target left then. `digest` is SHA-256 over all ids and what counts."""

    examples: tuple[Example, ...] = ()
    cut: int = 0
    ids_cut: int = 0
    dropped: int = 0
    digest: str = ""

    def notice(self, name: str, length: int) -> str | None:
        """What is not learned of the file `name`, as a sentence; None where all of it is."""
        if not self.cut:
            return None
        also = f" {self.dropped:,} of them had nothing left to learn and are left out." if self.dropped else ""
        return f"{name}: rows cut at {length:,} tokens: {self.cut:,}, {self.ids_cut:,} tokens in all.{also}"


def find_data(data: Path) -> None:
    """Raises NotFound where a directory of data is not there, or has no train.jsonl."""
    if not (data / TRAIN).is_file():
        raise NotFound(f"There is no {TRAIN} in {data}.", "Give {data}, a directory with train.jsonl in it.")


def read_rows(path: Path, reader: RowReader, length: int) -> Rows:
    """Reads a file of rows, each cut after `length` ids. Raises InvalidRequest, which names the lines, for rows that
    are none, and for a file without any; ElmError where it cannot be read."""
    examples, bad, found = [], list[str](), 0
    cut_rows = cut_ids = 0
    for number, raw in lines(path):
        found += 1
        try:
            whole = reader.read(parse_line(raw, "it"))
        except InvalidRequest as error:
            bad.append(in_line(number, str(error)))
            continue
        short = cut(whole, length)
        cut_rows += len(whole.ids) > length
        cut_ids += len(whole.ids) - len(short.ids)
        if short.targets:
            examples.append(short)
    refuse_bad(path, bad)
    if not examples:
        raise InvalidRequest(f"{path} has no row to learn from.")
    return Rows(tuple(examples), cut_rows, cut_ids, found - len(examples), digest_of(examples))


def in_line(number: int, why: str) -> str:
    """What is wrong with a line, as a sentence that names it."""
    why = why.removeprefix("it ")
    return f"line {number} {why}" if why[:1].islower() else f"line {number}: {why}"


def refuse_bad(path: Path, bad: list[str]) -> None:
    """Raises InvalidRequest where a file has bad rows: the first of them by line, and how many there are."""
    if bad:
        more = f" And {len(bad) - MOST_NAMED:,} more." if len(bad) > MOST_NAMED else ""
        raise InvalidRequest(f"{path}: {' '.join(bad[:MOST_NAMED])}{more} Mend these rows or take them out.")


def lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, bytes) of each line that has something on it; None for one that is too long."""
    with disk_errors(f"{path} cannot be read", "Check its permissions.", instead=""), path.open("rb") as file:
        number = 0
        while (raw := read_line(file)) != b"":
            number += 1
            if raw and number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw is None or raw.strip():
                yield number, raw


def digest_of(examples: list[Example]) -> str:
    """SHA-256 over the ids of examples and what counts of them."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.ids, example.counts]).encode())
    return digest.hexdigest()
