"""The rows of a data directory: train.jsonl and valid.jsonl, read a line at a time, bad ones refused by line."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

from elm_mlx.errors import InvalidRequest, NotFound
from elm_mlx.files import disk_errors
from elm_mlx.jobs.json_line import parse_line, read_line
from elm_mlx.train.answers import CUT, is_answer, row_of

TRAIN, VALID = "train.jsonl", "valid.jsonl"
MOST_NAMED = 5  # bad rows of one file in a message


class Learnable(Protocol):
    """What a row becomes: an Example or a Pair."""

    @property
    def targets(self) -> int:
        """How many ids count."""
        ...

    @property
    def length(self) -> int:
        """How many ids the model reads."""
        ...

    @property
    def facts(self) -> list[Any]:
        """What it is, as JSON has it."""
        ...

    def cut(self, length: int) -> Self:
        """The first `length` ids of it."""
        ...


T = TypeVar("T", bound=Learnable)
Made = TypeVar("Made", bound=Learnable, covariant=True)


class Reader(Protocol[Made]):
    """Makes of a row what is learned of it."""

    def read(self, row: Mapping[str, Any]) -> Made:
        """Reads a row. Raises InvalidRequest for one that is none."""
        ...


@dataclass(frozen=True)
class Rows(Generic[T]):
    """The examples (or pairs) of one file. `cut` of them were longer than what the model is to see, and `ids_cut` ids
    of these are not learned; `dropped` rows had no target left then. `left_out` counts the answers of a batch that
    teach nothing, by the reason. `digest` is SHA-256 over all ids and what counts."""

    examples: tuple[T, ...] = ()
    cut: int = 0
    ids_cut: int = 0
    dropped: int = 0
    digest: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def notices(self, name: str, length: int) -> list[str]:
        """What is not learned of the file `name`, as sentences; none where all of it is."""
        unfit = [f"{name}: {count:,} answers are left out: {why}." for why, count in self.left_out.items()]
        return [*unfit, *([self._cut_notice(name, length)] if self.cut else [])]

    def _cut_notice(self, name: str, length: int) -> str:
        also = f" {self.dropped:,} of them had nothing left to learn and are left out." if self.dropped else ""
        return f"{name}: rows cut at {length:,} tokens: {self.cut:,}, {self.ids_cut:,} tokens in all.{also}"


def find_data(data: Path) -> None:
    """Raises NotFound where a directory of data is not there, or has no train.jsonl."""
    if not (data / TRAIN).is_file():
        raise NotFound(f"There is no {TRAIN} in {data}.", "Give {data}, a directory with train.jsonl in it.")


def read_rows(path: Path, reader: Reader[T], length: int) -> Rows[T]:
    """Reads a file of rows, each cut after `length` ids; a row may be an answer that `elm-mlx batch` wrote. Raises
    InvalidRequest, which names the lines, for rows that are none, and for a file without any; ElmError where it cannot
    be read."""
    examples, bad, found, unfit = list[T](), list[InvalidRequest](), 0, Counter[str]()
    cut_rows = cut_ids = 0
    for number, raw in lines(path):
        try:
            row = parse_line(raw, "it")
            if is_answer(row):
                row, why = row_of(row)
                if why:
                    unfit[why] += 1
                    continue
            whole = reader.read(row)
        except InvalidRequest as error:
            bad.append(InvalidRequest(in_line(number, error.message), error.advice))
            continue
        found += 1
        short = whole.cut(length)
        cut_rows += whole.length > length
        cut_ids += whole.length - short.length
        if short.targets:
            examples.append(short)
    refuse_bad(path, bad)
    rows = Rows(tuple(examples), cut_rows, cut_ids, found - len(examples), digest_of(examples), unfit)
    if not examples:
        refuse_empty(path, rows, length)
    return rows


def refuse_empty(path: Path, rows: Rows[Any], length: int) -> NoReturn:
    """Raises InvalidRequest for a file of which nothing can be learned, with what was left out of it and why."""
    why = " ".join(rows.notices(path.name, length))
    advice = ["Take a larger {max_length}, if the model has room for it, or shorter rows."] if rows.dropped else []
    advice += ["Let batch write longer answers: {max_tokens}."] if CUT in rows.left_out else []
    raise InvalidRequest(f"{path} has no row to learn from. {why}".rstrip(), " ".join(advice or ["Put rows into it."]))


def in_line(number: int, why: str) -> str:
    """What is wrong with a line, as a sentence that names it."""
    why = why.removeprefix("it ")
    return f"line {number} {why}" if why[:1].islower() else f"line {number}: {why}"


def refuse_bad(path: Path, bad: list[InvalidRequest]) -> None:
    """Raises InvalidRequest where a file has bad rows: the first of them by line, and how many there are."""
    if bad:
        named = bad[:MOST_NAMED]
        more = f" And {len(bad) - MOST_NAMED:,} more." if len(bad) > MOST_NAMED else ""
        advice = dict.fromkeys([*(one.advice for one in named if one.advice), "Correct these rows, or take them out."])
        raise InvalidRequest(f"{path}: {' '.join(one.message for one in named)}{more}", " ".join(advice))


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


def digest_of(examples: Sequence[Learnable]) -> str:
    """SHA-256 over the ids of examples and what counts of them."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example.facts).encode())
    return digest.hexdigest()
