"""What the streams of OpenAI's two APIs have in common: how an event is made, and how a stream ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.dialect import Event, Facts
from elm_mlx.protocols.openai.answers import DONE, refused, timings_of, usage_of
from elm_mlx.protocols.openai.options import includes_usage
from elm_mlx.protocols.refusal import Refusal
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion


class Events:
    """The events of one request, each of which begins with the keys of `head`: one choice each, then the numbers of
    tokens where they are asked for, and [DONE]."""

    def __init__(self, ask: Ask, facts: Facts, body: Mapping[str, Any], head: Mapping[str, Any]) -> None:
        self._ask, self._facts, self._head = ask, facts, head
        self._counts, self._notes = includes_usage(body), "logprobs" in ask.options
        self._tail: dict[str, Any] = {"usage": None} if self._counts else {}
        self._texts = TokenTexts(facts.lm.tokenizer)

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        """The numbers of tokens, where they are asked for, and the end of the stream."""
        if not self._counts:
            return [DONE]
        usage = usage_of(self._ask, completions, self._facts)
        return [Event({**self._head, "choices": [], "usage": usage}), DONE]

    def fail(self, refusal: Refusal) -> list[Event]:
        """The event of an error, after which the stream ends."""
        return [Event(refused(refusal))]

    def _event(self, choice: Mapping[str, Any], completion: Completion | None = None) -> Event:
        """The event of one choice, with the times of the answer where it has ended."""
        timings = {"timings": timings_of(completion.stats)} if completion else {}
        return Event({**self._head, "choices": [choice], **self._tail, **timings})
