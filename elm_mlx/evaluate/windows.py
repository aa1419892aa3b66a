"""A text in windows of ids that overlap: every id is predicted once, with as much before it as the overlap leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Window(NamedTuple):
    """What a model reads at once: `ids`, of which it predicts the last `scored` ones."""

    ids: list[int]
    scored: int


def windows(ids: Sequence[int], bos: Sequence[int], length: int, stride: int) -> Iterator[Window]:
    """The windows of one text: each of up to `length` ids, `bos` among them, and so many ids further than the last as
    `stride` says.

    All ids are scored, or without `bos` all but the first. `stride` is at most the ids that a window has beside `bos`,
    without `bos` one less.
    """
    size = length - len(bos)
    start, done = 0, 0 if bos else 1
    while done < len(ids):
        end = min(start + size, len(ids))
        yield Window([*bos, *ids[start:end]], end - done)
        start, done = start + stride, end
