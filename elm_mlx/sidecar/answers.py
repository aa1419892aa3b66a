"""Answers of a model as objects of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Piece, ToolCall


def completion_object(done: Completion) -> dict[str, Any]:
    """A whole answer. `logprobs` are there where the call asked for them: an entry for each of `tokens`."""
    made = {
        "text": done.text,
        "finish_reason": done.finish_reason,
        "stop_reason": done.stop_reason,
        "stats": asdict(done.stats),
        "parsed": done.parsed,
        "reasoning": done.reasoning,
        "tool_calls": [call_object(call) for call in done.tool_calls],
    }
    if done.logprobs is not None:
        made |= {"tokens": done.tokens, "logprobs": [one._asdict() for one in done.logprobs]}
    return made


def call_object(call: ToolCall) -> dict[str, Any]:
    """A call of a tool."""
    return {"id": call.id, "name": call.name, "arguments": dict(call.arguments)}


def delta_object(piece: Piece, named: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters of the notification of one piece, after those that say what it belongs to; None for a piece that
    says nothing."""
    if piece.tool_call:
        return {**named, "text": piece.text, "kind": piece.kind, "tool_call": call_object(piece.tool_call)}
    return {**named, "text": piece.text, "kind": piece.kind} if piece.text else None
