"""The stream of an answer, as events of Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.anthropic import message as told
from elm_mlx.protocols.anthropic.errors import refused
from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai.lead import Lead, continues_text
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.token_texts import TokenTexts
from elm_mlx.protocols.told import arguments_text

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Piece
    from elm_mlx.text.tools import ToolCall

TEXT, REASONING = "text", "reasoning"  # the kinds of pieces whose text is told


class MessageEvents:
    """Tells one answer. A block is told from its beginning to its end before the next one begins."""

    def __init__(self, ask: Ask, body: Mapping[str, Any], facts: Facts) -> None:
        self._ask, self._body, self._facts = ask, body, facts
        self._lead = Lead(TokenTexts(facts.lm.tokenizer), is_needed=continues_text(ask))
        self._kinds = (TEXT,) if told.hides_thinking(body) else (TEXT, REASONING)
        self._kind: str | None = None  # of the block that is being told
        self._blocks = 0  # that are told to their ends

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        """The message without content, with the length of the prompt."""
        usage = told.usage(sum(prompt_tokens), 0)
        return [event("message_start", message=told.message(self._facts) | {"usage": usage})]

    def piece(self, index: int, piece: Piece) -> list[Event]:
        """The events of one piece: text goes to the block of its kind, which it may begin; a call is told whole."""
        if piece.tool_call:
            return self._call(piece.tool_call)
        text = self._lead.with_blank(piece.token, piece.text)
        if not text or piece.kind not in self._kinds:
            return []
        return [*self._turn_to(piece.kind), self._delta(delta_of(piece.kind, text))]

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        """Ends the last block. An answer that says nothing gets a block without text."""
        begun = [] if self._kind or self._blocks else self._turn_to(TEXT)
        return [*begun, *self._close()]

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        """Why the answer ended, and what it took."""
        delta, usage = told.stop_of(self._body, completions[0]), told.usage_of(completions[0])
        return [event("message_delta", delta=delta, usage=usage), event("message_stop")]

    def fail(self, refusal: Refusal) -> list[Event]:
        """The error, as if it had come instead of the answer."""
        return [Event(refused(refusal), "error")]

    def _turn_to(self, kind: str) -> list[Event]:
        """Begins a block of a kind, unless one is being told."""
        if self._kind == kind:
            return []
        closing = self._close()
        self._kind = kind
        return [*closing, self._start(told.text() if kind == TEXT else told.thinking())]

    def _start(self, block: told.Block) -> Event:
        return event("content_block_start", index=self._blocks, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> Event:
        return event("content_block_delta", index=self._blocks, delta=delta)

    def _stop(self) -> Event:
        self._kind = None
        self._blocks += 1
        return event("content_block_stop", index=self._blocks - 1)

    def _close(self) -> list[Event]:
        """Ends the block that is being told, if one is."""
        if self._kind is None:
            return []
        signed = [self._delta({"type": "signature_delta", "signature": ""})] if self._kind == REASONING else []
        return [*signed, self._stop()]

    def _call(self, call: ToolCall) -> list[Event]:
        """Tells a call."""
        closing = self._close()
        written = self._delta({"type": "input_json_delta", "partial_json": arguments_text(call)})
        return [*closing, self._start(told.tool_use(call, {})), written, self._stop()]


def event(kind: str, **data: Any) -> Event:
    """An event, whose name is its type."""
    return Event({"type": kind, **data}, kind)


def delta_of(kind: str, text: str) -> dict[str, Any]:
    """More of a block's text."""
    return {"type": "text_delta", "text": text} if kind == TEXT else {"type": "thinking_delta", "thinking": text}
