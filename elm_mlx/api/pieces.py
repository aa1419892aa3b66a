"""From the ids of an answer to its pieces, and to what the answer says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from elm_mlx.api.completion import Piece
from elm_mlx.api.stopping import answer_text
from elm_mlx.engine.request import Request
from elm_mlx.engine.sequence import LENGTH, STOP
from elm_mlx.text.answer import Answer, Reading
from elm_mlx.text.parts import REASONING, TEXT, Part
from elm_mlx.text.tokenizer import Tokenizer
from elm_mlx.text.tools import ToolCall


class Said(NamedTuple):
    """What an answer says: its text, its reasoning (None where it has none), and the calls that it makes."""

    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class AnswerPieces:
    """Cuts the ids of the answer to a request into pieces, while they come. `reading` says which parts it may have."""

    def __init__(self, request: Request, tokenizer: Tokenizer, reading: Reading | None = None) -> None:
        self._request, self._tokenizer, self._reading = request, tokenizer, reading
        self._text = answer_text(request, tokenizer)
        self._answer = reading.answer(self._text) if reading else None

    def take(self, token: int, *, is_last: bool) -> list[Piece]:
        """Takes the next id, and gives its pieces: one, or one for each of the parts that its text belongs to."""
        if self._answer:
            return pieces_in(self._answer, token, self._request.stop_ids, is_last=is_last)
        if token in self._request.stop_ids:
            return [Piece(self._text.flush(), token, STOP, stop_reason=token)]
        text, string = self._text.read(token)
        if string is not None:
            return [Piece(text, token, STOP, stop_reason=string)]
        return [Piece(text + self._text.flush(), token, LENGTH) if is_last else Piece(text, token, None)]

    def said(self, tokens: list[int], *, is_whole: bool) -> Said:
        """What these ids say, all read anew. The answer `is_whole` where the model ended it with a stop id."""
        if not self._reading:
            return Said(self._text.text_of(tokens))
        answer = self._reading.answer(answer_text(self._request, self._tokenizer))
        parts = [part for token in tokens for part in answer.read(token)[0]]
        return said_in([*parts, *answer.end(is_whole=is_whole)])


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
