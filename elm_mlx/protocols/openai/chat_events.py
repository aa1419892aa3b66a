"""The stream of a chat completion: objects of the kind chat.completion.chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai.answers import head_of, reason_of, refused, timings_of, usage_of
from elm_mlx.protocols.openai.chat_answer import arguments_of
from elm_mlx.protocols.openai.options import includes_usage
from elm_mlx.protocols.refusal import Refusal

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Piece
    from elm_mlx.text.tools import ToolCall

DONE = Event("[DONE]")
DELTAS = {"text": "content", "reasoning": "reasoning_content"}  # kind of a Piece -> key of a delta


class ChatEvents:
    """The events of one request: a first one with the role for each answer, deltas, one that says why the answer ends,
    the numbers of tokens where they are asked for, and [DONE]."""

    def __init__(self, ask: Ask, facts: Facts, most_calls: int | None, body: Mapping[str, Any]) -> None:
        """`most_calls` is how many calls of an answer count, all of them where it is None."""
        self._ask, self._facts, self._most_calls = ask, facts, most_calls
        self._head = head_of("chatcmpl-", "chat.completion.chunk", facts)
        self._counts = includes_usage(body)
        self._tail: dict[str, Any] = {"usage": None} if self._counts else {}
        self._calls = [0] * ask.answers

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        """The first event of each answer, which clients show before the prompt is read."""
        return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._ask.answers)]

    def piece(self, index: int, piece: Piece) -> list[Event]:
        """The events of one piece: none for one without text."""
        if piece.tool_call:
            return self._call(index, piece.tool_call)
        name = DELTAS.get(piece.kind)
        return [self._chunk(index, {name: piece.text})] if piece.text and name else []

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        """The event that says why an answer ends."""
        last = self._chunk(index, {}, reason_of(completion))
        return [Event({**last.data, "timings": timings_of(completion.stats)})]  # type: ignore[dict-item]

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        """The numbers of tokens, where they are asked for, and the end of the stream."""
        if not self._counts:
            return [DONE]
        usage = usage_of(self._ask, completions, self._facts)
        return [Event({**self._head, "choices": [], "usage": usage}), DONE]

    def fail(self, refusal: Refusal) -> list[Event]:
        """The event of an error, after which the stream ends."""
        return [Event(refused(refusal))]

    def _chunk(self, index: int, delta: Mapping[str, Any], reason: str | None = None) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return Event({**self._head, "choices": [choice], **self._tail})

    def _call(self, index: int, call: ToolCall) -> list[Event]:
        """The two events of a call: that it begins, and its arguments."""
        number = self._calls[index]
        if self._most_calls is not None and number >= self._most_calls:
            return []
        self._calls[index] += 1
        begin = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        arguments = {"index": number, "function": {"arguments": arguments_of(call)}}
        return [self._chunk(index, {"tool_calls": [one]}) for one in (begin, arguments)]
