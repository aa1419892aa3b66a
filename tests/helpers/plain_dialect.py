"""The smallest API that a server can speak, for tests of what stands between HTTP and the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elm_mlx.api import Completion, Piece
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts, Named
from elm_mlx.protocols.refusal import FieldRefused, Refusal

KNOWN = {"model", "messages", "prompt", "max_tokens", "options", "tools", "tool_choice", "n", "stream", "goes_on"}


def read(body: Mapping[str, Any], *, strict: bool) -> Ask:
    ignored = tuple(body.keys() - KNOWN)
    if strict and ignored:
        raise FieldRefused(ignored[0], f"{ignored[0]} is not known.")
    prompt = body.get("prompt", ())
    return Ask(
        model=body.get("model"), messages=body.get("messages"), prompts=[prompt] if isinstance(prompt, str) else prompt,
        max_tokens=body.get("max_tokens"), options=body.get("options", {}), tools=body.get("tools"),
        tool_choice=body.get("tool_choice"), n=body.get("n", 1), streamed=body.get("stream", False),
        goes_on=body.get("goes_on", False), ignored=ignored,
    )  # fmt: skip


def told(completion: Completion) -> dict[str, Any]:
    return {"text": completion.text, "finish": completion.finish_reason, "tokens": len(completion.tokens)}


def whole(ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> Any:
    return {"model": facts.model, "answers": [told(completion) for completion in completions]}


class Told:
    """The events of one answer."""

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        return [Event({"begin": list(prompt_tokens)})]

    def piece(self, index: int, piece: Piece) -> list[Event]:
        return [Event({"index": index, "text": piece.text})]

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        return [Event({"index": index, "finish": completion.finish_reason})]

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        return [Event("[DONE]")]

    def fail(self, refusal: Refusal) -> list[Event]:
        return [Event(refused(refusal))]


def events(ask: Ask, body: Mapping[str, Any], facts: Facts) -> Told:
    return Told()


def refused(refusal: Refusal) -> Any:
    return {"error": {"message": refusal.message, "code": refusal.code, "param": refusal.param}}


def failed(body: Mapping[str, Any], named: Named, refusal: Refusal) -> list[Event]:
    return [Event(refused(refusal), "error")]
