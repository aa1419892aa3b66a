"""The stream of a chat completion: objects of the kind chat.completion.chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai.answers import head_of, reason_of
from elm_mlx.protocols.openai.entries import Entries, Entry
from elm_mlx.protocols.openai.events import Events
from elm_mlx.protocols.openai.lead import Lead, continues_text
from elm_mlx.protocols.openai.token_logprobs import of_chat
from elm_mlx.protocols.told import arguments_text

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Piece
    from elm_mlx.text.tools import ToolCall

DELTAS = {"text": "content", "reasoning": "reasoning_content"}  # kind of a Piece -> key of a delta


class ChatEvents(Events):
    """The events of one request: a first one with the role for each answer, deltas, one that says why the answer ends,
    the numbers of tokens where they are asked for, and [DONE]."""

    def __init__(self, ask: Ask, facts: Facts, body: Mapping[str, Any]) -> None:
        super().__init__(ask, facts, body, head_of("chatcmpl-", "chat.completion.chunk", facts))
        goes_on, answers = continues_text(ask), range(ask.answers)
        self._leads = [Lead(self._texts, goes_on) for _ in answers]
        self._entries = [Entries(self._texts, keeps_blank=goes_on) for _ in answers]
        self._calls = [0 for _ in answers]

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        """The first event of each answer, which clients show before the prompt is read."""
        return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._ask.answers)]

    def piece(self, index: int, piece: Piece) -> list[Event]:
        """The events of one piece: none for one without text."""
        if piece.logprob and not isinstance(piece.stop_reason, int):
            self._entries[index].add(piece.token, piece.logprob)
        if piece.tool_call:
            return self._call(index, piece.tool_call)
        text = self._leads[index].with_blank(piece.token, piece.text)
        if not (name := DELTAS.get(piece.kind)) or not text:
            return []
        entries = self._entries[index].given(text) if self._notes else None
        return [self._chunk(index, {name: text}, entries=entries)]

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        """The event that says why an answer ends, after one with what is left of its log-probabilities."""
        events = []
        if rest := self._entries[index].rest(completion.stop_reason):
            events.append(self._chunk(index, {"content": ""}, entries=rest))
        return [*events, self._event(choice_of(index, {}, reason=reason_of(completion)), completion)]

    def _chunk(self, index: int, delta: Mapping[str, Any], entries: Sequence[Entry] | None = None) -> Event:
        return self._event(choice_of(index, delta, None if entries is None else of_chat(entries, self._texts)))

    def _call(self, index: int, call: ToolCall) -> list[Event]:
        """The two events of a call: that it begins, and its arguments."""
        number = self._calls[index]
        self._calls[index] += 1
        begin = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        arguments = {"index": number, "function": {"arguments": arguments_text(call)}}
        return [self._chunk(index, {"tool_calls": [one]}) for one in (begin, arguments)]


def choice_of(
    index: int, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None = None, reason: str | None = None
) -> dict[str, Any]:
    """What an event says of an answer."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
