"""From the parts of an answer to its pieces, and from either to what the answer says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from elm_mlx.api.completion import Piece
from elm_mlx.engine.sequence import LENGTH, STOP
from elm_mlx.text.answer import Answer
from elm_mlx.text.parts import REASONING, TEXT, Part
from elm_mlx.text.tools import ToolCall


class Said(NamedTuple):
    """What an answer says: its text, its reasoning (None where it has none), and the calls that it makes."""

    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


def said_in(parts: Iterable[Part | Piece]) -> Said:
    """What parts or pieces say together."""
    texts: dict[str, list[str]] = {TEXT: []}
    calls = []
    for part in parts:
        texts.setdefault(part.kind, []).append(part.text)
        if call := (part.call if isinstance(part, Part) else part.tool_call):
            calls.append(call)
    reasoning = "".join(texts[REASONING]) if REASONING in texts else None
    return Said("".join(texts[TEXT]), reasoning, tuple(calls))


def pieces_in(answer: Answer, token: int, stop_ids: frozenset[int], *, is_last: bool) -> list[Piece]:
    """The pieces of the next id of an answer: one for each of the parts that become certain with it, at least one. The
    last of them says whether the answer ends with it, and why."""
    if token in stop_ids:
        return pieces_of(answer.end(is_whole=True), Piece("", token, STOP, token, kind=answer.kind))
    parts, string = answer.read(token)
    reason = STOP if string is not None else LENGTH if is_last else None
    end = Piece("", token, reason, string or None, kind=answer.kind)
    if end.finish_reason:
        parts = [*parts, *answer.end(is_whole=False)]
    return pieces_of(parts, end)


def pieces_of(parts: Iterable[Part], last: Piece) -> list[Piece]:
    """A piece for each part. The last piece is `last` with what the last part has."""
    pieces = [replace(last, text=part.text, kind=part.kind, tool_call=part.call) for part in parts] or [last]
    return [*(replace(piece, finish_reason=None, stop_reason=None) for piece in pieces[:-1]), pieces[-1]]
