"""The stream of a chat completion: objects of the kind chat.completion.chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai.answers import DONE, head_of, reason_of, refused, timings_of, usage_of
from elm_mlx.protocols.openai.entries import Entries, Entry
from elm_mlx.protocols.openai.lead import Lead, continues_text
from elm_mlx.protocols.openai.options import includes_usage
from elm_mlx.protocols.openai.token_logprobs import of_chat
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.token_texts import TokenTexts
from elm_mlx.protocols.told import arguments_text

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Piece
    from elm_mlx.text.tools import ToolCall

DELTAS = {"text": "content", "reasoning": "reasoning_content"}  # kind of a Piece -> key of a delta


class ChatEvents:
    """The events of one request: a first one with the role for each answer, deltas, one that says why the answer ends,
    the numbers of tokens where they are asked for, and [DONE]."""

    def __init__(self, ask: Ask, facts: Facts, body: Mapping[str, Any]) -> None:
        self._ask, self._facts = ask, facts
        self._head = head_of("chatcmpl-", "chat.completion.chunk", facts)
        self._counts, self._notes = includes_usage(body), "logprobs" in ask.options
        self._tail: dict[str, Any] = {"usage": None} if self._counts else {}
        self._texts = TokenTexts(facts.lm.tokenizer)
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
        last = self._chunk(index, {}, reason_of(completion))
        return [*events, Event({**last.data, "timings": timings_of(completion.stats)})]  # type: ignore[dict-item]

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        """The numbers of tokens, where they are asked for, and the end of the stream."""
        if not self._counts:
            return [DONE]
        usage = usage_of(self._ask, completions, self._facts)
        return [Event({**self._head, "choices": [], "usage": usage}), DONE]

    def fail(self, refusal: Refusal) -> list[Event]:
        """The event of an error, after which the stream ends."""
        return [Event(refused(refusal))]

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        entries: Sequence[Entry] | None = None,
    ) -> Event:
        logprobs = None if entries is None else of_chat(entries, self._texts)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return Event({**self._head, "choices": [choice], **self._tail})

    def _call(self, index: int, call: ToolCall) -> list[Event]:
        """The two events of a call: that it begins, and its arguments."""
        number = self._calls[index]
        self._calls[index] += 1
        begin = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        arguments = {"index": number, "function": {"arguments": arguments_text(call)}}
        return [self._chunk(index, {"tool_calls": [one]}) for one in (begin, arguments)]
