"""Answers that a test writes itself, as the pieces and the completion that a model would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from elm_mlx.api import Completion, Piece, Stats, TokenLogprob
from elm_mlx.api.pieces import said_in
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Dialect, Event, Facts
from elm_mlx.text.tools import ToolCall

END = 2  # the id that ends a turn
WIDTH = 3  # characters of a token


class Answer(NamedTuple):
    pieces: list[Piece]
    completion: Completion


def call(name: str, number: int = 1, **arguments: Any) -> ToolCall:
    return ToolCall(f"call_{number:024}", name, arguments)


def answer(
    *parts: str | tuple[str, str] | ToolCall, finish: str = "stop", stop: str | None = None, cached: int = 0,
    logprobs: bool = False,
) -> Answer:  # fmt: skip
    """An answer of texts, (kind, text) pairs and calls, one after the other, which ends for a reason: "length", or by
    the id END, or by the stop string `stop`."""
    pieces = [piece for part in parts for piece in pieces_of(part)]
    if logprobs:
        pieces = [replace(one, logprob=TokenLogprob(-0.5, ((one.token, -0.5), (7, -2.0)))) for one in pieces]
    tokens = [piece.token for piece in pieces]
    reason = stop or END if finish == "stop" else None
    pieces.append(Piece("", tokens[-1] if stop and tokens else END, finish, reason))
    said = said_in(pieces)
    notes = [piece.logprob for piece in pieces[:-1] if piece.logprob] if logprobs else None
    stats = Stats(5, len(tokens), 0.1, None, None, 0, cached_tokens=cached)
    return Answer(pieces, Completion(said.text, tokens, finish, stats, reason, notes, None, *said[1:]))


def pieces_of(part: str | tuple[str, str] | ToolCall) -> list[Piece]:
    if isinstance(part, ToolCall):
        return [Piece("{...}", 9, None, kind="tool", tool_call=part)]
    kind, text = ("text", part) if isinstance(part, str) else part
    return [Piece(text[at : at + WIDTH], 100 + at, None, kind=kind) for at in range(0, len(text), WIDTH)]


def events_of(
    dialect: Dialect, body: Mapping[str, Any], facts: Facts, given: Answer, prompt: Sequence[int] = (5,)
) -> list[Event]:
    """All events of an answer to a request."""
    stream = dialect.events(dialect.read(body, strict=False), body, facts)
    told = stream.begin(prompt)
    for piece in given.pieces:
        told += stream.piece(0, piece)
    return [*told, *stream.answer_ended(0, given.completion), *stream.end([given.completion])]


def whole_of(dialect: Dialect, body: Mapping[str, Any], facts: Facts, given: Answer) -> Any:
    """The whole answer to a request."""
    ask: Ask = dialect.read(body, strict=False)
    return dialect.whole(ask, body, facts, [given.completion])
