"""Ids that were drawn on the device and not read yet."""

from __future__ import annotations

from collections.abc import Sequence as List
from itertools import chain
from typing import Any, NamedTuple

import mlx.core as mx

from elm_mlx.engine.logprobs import Note
from elm_mlx.engine.sequence import Sequence


class Drawn(NamedTuple):
    """Ids that were drawn and not read yet [B], the peaks of their logits [B], the row that each belongs to (None:
    nobody's), and log-probabilities for the rows that ask for them."""

    ids: mx.array
    peaks: mx.array
    rows: list[Sequence | None]
    notes: tuple[Note, ...] = ()

    def submit(self) -> None:
        """Hands what is to be computed to the device."""
        mx.async_eval(self.ids, self.peaks, [note.arrays() for note in self.notes])


def first_of(one: Sequence) -> Drawn:
    """Takes the first id of a sequence, which is drawn ahead, from it."""
    assert one.ahead
    first = Drawn(*one.ahead, [one], (one.note,) if one.note else ())
    one.ahead = one.note = None
    return first


def joined(parts: List[Drawn]) -> Drawn:
    """All of them as one, with no row where there are none."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Drawn(mx.zeros((0,), mx.uint32), mx.zeros((0,)), [])
    ids, highest, rows, notes = zip(*parts, strict=True)
    return Drawn(mx.concatenate([*ids]), mx.concatenate([*highest]), [*chain(*rows)], (*chain(*notes),))


def list_of(numbers: mx.array) -> list[Any]:
    """The numbers of an array [B], for which the host waits."""
    found: Any = numbers.tolist()
    return found
