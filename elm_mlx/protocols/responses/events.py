"""The stream of an answer, as events of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai.entries import Entries, Entry
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.responses import items
from elm_mlx.protocols.responses.items import COMPLETED, INCOMPLETE, Item
from elm_mlx.protocols.responses.logprobs import told
from elm_mlx.protocols.responses.response import LENGTH, ended_response, failed_response, response
from elm_mlx.protocols.token_texts import TokenTexts
from elm_mlx.protocols.told import arguments_text

if TYPE_CHECKING:
    from elm_mlx.api import Completion, Piece
    from elm_mlx.text.tools import ToolCall

TEXT, REASONING = "text", "reasoning"  # the kinds of pieces whose text is told


class Writing:
    """The item that is being written, a message or reasoning, and its text so far."""

    def __init__(self, kind: str, item: Item) -> None:
        self.kind, self.item = kind, item
        self.texts: list[str] = []
        self.logprobs: list[Item] = []

    @property
    def part(self) -> Item:
        """The item's only part, with its text so far."""
        text = "".join(self.texts)
        return items.text_part(text, self.logprobs) if self.kind == TEXT else items.reasoning_part(text)

    @property
    def verb(self) -> str:
        """The beginning of the names of the events that tell its text."""
        return "output_text" if self.kind == TEXT else "reasoning_text"


class ResponseEvents:
    """Tells one answer. An item is told from its beginning to its end before the next one begins."""

    def __init__(self, ask: Ask, body: Mapping[str, Any], facts: Facts) -> None:
        self._ask, self._facts = ask, facts
        self._begun = response(body, facts)
        self._output: list[Item] = []
        self._writing: Writing | None = None
        self._texts = TokenTexts(facts.lm.tokenizer)
        self._entries = Entries(self._texts)
        self._count = 0

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        """The response, twice, as some clients wait for both events."""
        return [self._event("created", response=self._begun), self._event("in_progress", response=self._begun)]

    def piece(self, index: int, piece: Piece) -> list[Event]:
        """The events of one piece: text goes to the item of its kind, which it may begin; a call is told whole."""
        if piece.logprob and not isinstance(piece.stop_reason, int):
            self._entries.add(piece.token, piece.logprob)
        if piece.tool_call:
            return self._call(piece.tool_call)
        if not piece.text or piece.kind not in (TEXT, REASONING):
            return []
        return [*self._turn_to(piece.kind), self._delta(piece.text)]

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        """Ends the last item. An answer that says nothing gets an empty message."""
        begun = [] if self._writing or self._output else self._turn_to(TEXT)
        if self._writing and self._writing.kind == TEXT:
            self._told(self._entries.rest(completion.stop_reason))
        return [*begun, *self._close(INCOMPLETE if completion.finish_reason == LENGTH else COMPLETED)]

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        """The whole response."""
        whole = ended_response(self._begun, self._output, completions[0], self._facts)
        return [self._event(whole["status"], response=whole)]

    def fail(self, refusal: Refusal) -> list[Event]:
        """The response as far as it came, with the error."""
        closing = self._close(INCOMPLETE)
        return [*closing, self._event("failed", response=failed_response(self._begun, self._output, refusal))]

    def _event(self, kind: str, /, **data: Any) -> Event:
        """The next event of the response itself, or of a part of it."""
        self._count += 1
        return event(self._count - 1, kind, **data)

    def _of_part(self, kind: str, /, **data: Any) -> Event:
        """An event of the one part of the item that is being written."""
        assert self._writing
        place = {"item_id": self._writing.item["id"], "output_index": len(self._output), "content_index": 0}
        return self._event(kind, **place, **data)

    def _turn_to(self, kind: str) -> list[Event]:
        """Begins an item of a kind, unless one is being written."""
        if self._writing and self._writing.kind == kind:
            return []
        closing = self._close(COMPLETED)
        number = f"{self._facts.id}{len(self._output)}"
        item = items.message(f"msg_{number}") if kind == TEXT else items.reasoning(f"rs_{number}")
        self._writing = Writing(kind, item)
        added = self._event("output_item.added", output_index=len(self._output), item=item)
        return [*closing, added, self._of_part("content_part.added", part=self._writing.part)]

    def _delta(self, text: str) -> Event:
        """More text of the item that is being written, with the log-probabilities that came until now."""
        assert self._writing
        self._writing.texts.append(text)
        entries = self._entries.given(text)
        if self._writing.kind == REASONING:  # whose tokens have no place for theirs
            return self._of_part(f"{self._writing.verb}.delta", delta=text)
        new = self._told(entries)
        return self._of_part(f"{self._writing.verb}.delta", delta=text, logprobs=new)

    def _told(self, entries: list[Entry]) -> list[Item]:
        """The log-probabilities of tokens, which are put to those of the message that is being written."""
        assert self._writing
        new = told(entries, self._texts)
        self._writing.logprobs += new
        return new

    def _close(self, status: str) -> list[Event]:
        """Ends the item that is being written, if one is."""
        if not (writing := self._writing):
            return []
        part = writing.part
        more = {"logprobs": writing.logprobs} if writing.kind == TEXT else {}
        done = self._of_part(f"{writing.verb}.done", text=part["text"], **more)
        return [
            done,
            self._of_part("content_part.done", part=part),
            *self._done(items.ended(writing.item, status, part)),
        ]

    def _done(self, item: Item) -> list[Event]:
        """Puts an item into the output, whole."""
        event = self._event("output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._writing = None
        return [event]

    def _call(self, call: ToolCall) -> list[Event]:
        """Tells a call."""
        closing = self._close(COMPLETED)
        place = len(self._output)
        id, arguments = f"fc_{self._facts.id}{place}", arguments_text(call)
        at = {"item_id": id, "output_index": place}
        return [
            *closing,
            self._event("output_item.added", output_index=place, item=items.function_call(id, call)),
            self._event("function_call_arguments.delta", **at, delta=arguments),
            self._event("function_call_arguments.done", **at, name=call.name, arguments=arguments),
            *self._done(items.whole_call(id, call)),
        ]


def event(count: int, kind: str, /, **data: Any) -> Event:
    """Event number `count` of a response, from 0."""
    kind = f"response.{kind}"
    return Event({"type": kind, "sequence_number": count, **data}, kind)
