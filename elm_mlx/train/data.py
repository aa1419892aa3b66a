"""The rows of a data directory as what is learned of them: text, or pairs of answers with what is known of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from elm_mlx.train.dpo import PairObjective
from elm_mlx.train.files import TRAIN, VALID, Reader, Rows, read_rows
from elm_mlx.train.job import Job
from elm_mlx.train.objective import Objective, TokenObjective
from elm_mlx.train.pairs import PairReader
from elm_mlx.train.reference import compute_reference, read_reference, write_reference
from elm_mlx.train.rows import RowReader
from elm_mlx.train.settings import Settings
from elm_mlx.train.student import Student
from elm_mlx.train.training import Arrays

Say = Callable[[str], None]


class Data(NamedTuple):
    """The rows to learn, and those to validate with, which may be none."""

    train: Rows[Any]
    valid: Rows[Any]


def read_data(student: Student, data: Path, settings: Settings, say: Say) -> Data:
    """The rows of train.jsonl, and of valid.jsonl where there is one; says what of them is not learned."""
    length = min(settings.max_length, student.config.context_length)
    reader = reader_for(student, settings)
    train, valid = read_rows(data / TRAIN, reader, length), Rows[Any]()
    if (data / VALID).exists():
        valid = read_rows(data / VALID, reader, length)
    for name, rows in ((TRAIN, train), (VALID, valid)):
        for notice in rows.notices(name, length):
            say(notice)
    return Data(train, valid)


def reader_for(student: Student, settings: Settings) -> Reader[Any]:
    """What makes examples of rows, or pairs: of these the answers alone count."""
    mask, last = settings.mask_prompt or settings.is_dpo, settings.last_turn_only or settings.is_dpo
    reader = RowReader(student.tokenizer, student.templates, student.end, mask, last)
    return PairReader(reader) if settings.is_dpo else reader


def objective_of(rows: Rows[Any], settings: Settings) -> Objective:
    """What is made small of some rows."""
    return PairObjective(rows.examples, settings.used_beta) if settings.is_dpo else TokenObjective(rows.examples)


def find_reference(job: Job, begun: Arrays, say: Say) -> None:
    """Gives pairs the log-probabilities of their answers by the model as it is before the training, with the arrays
    `begun`: those that a stopped training kept, else computed now and kept."""
    both = {TRAIN: job.train, VALID: job.valid}
    files = {name: one for name, one in both.items() if isinstance(one, PairObjective)}
    pairs = {name: one.pairs for name, one in files.items()}
    base = {name: job.facts[name] for name in ("data", "valid", "base_weights")}
    found = read_reference(job.output, pairs, base)
    if found is None:
        say(f"Reference: the log-probabilities of {2 * sum(map(len, pairs.values())):,} answers, computed once.")
        model = job.trained.base(begun)
        found = {name: compute_reference(model, one, job.settings.batch_size) for name, one in pairs.items()}
        write_reference(job.output, found, base)
    for name, one in files.items():
        one.reference = found.get(name, ())
