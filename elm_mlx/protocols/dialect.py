"""What the server asks of an API: to read a request, and to write its answer, whole or as events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from elm_mlx.protocols.ask import Ask
from elm_mlx.protocols.refusal import Refusal

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel, Piece, TokenLogprob


class ScoredPrompt(NamedTuple):
    """The ids of a prompt's text, and the log-probability of each: None for one that nothing stands before."""

    ids: Sequence[int]
    logprobs: Sequence[TokenLogprob | None]


@dataclass(frozen=True)
class Named:
    """What an answer is called: a random `id` (letters and digits, to which an API puts its prefix), the time of the
    request in seconds since 1970, and the name of the model as clients know it."""

    id: str
    created: int
    model: str


@dataclass(frozen=True)
class Facts(Named):
    """What an answer is told with: what it is called, the model itself, and the tokens of every prompt, where the
    request `scores_prompts`."""

    lm: LanguageModel
    scored: Sequence[ScoredPrompt] = ()


class Event(NamedTuple):
    """An event of a stream: its data, an object or a bare text as "[DONE]", and its name where the API has names."""

    data: Mapping[str, Any] | str
    name: str | None = None


class Events(Protocol):
    """The stream of one request, event by event. The server calls `begin` at once, `piece` for every Piece of answer
    number `index`, `answer_ended` when that answer is over, and `end` after the last one; or else `fail`."""

    def begin(self, prompt_tokens: Sequence[int]) -> list[Event]:
        """The events before the first token. `prompt_tokens` has the length of every prompt."""
        ...

    def piece(self, index: int, piece: Piece) -> list[Event]:
        """The events of one piece."""
        ...

    def answer_ended(self, index: int, completion: Completion) -> list[Event]:
        """The events that end one answer."""
        ...

    def end(self, completions: Sequence[Completion]) -> list[Event]:
        """The events that end the stream."""
        ...

    def fail(self, refusal: Refusal) -> list[Event]:
        """The events by which a stream that has begun tells an error."""
        ...


class Dialect(Protocol):
    """An API: a module or an object with these functions."""

    def read(self, body: Mapping[str, Any], *, strict: bool) -> Ask:
        """What a request asks. Raises FieldRefused, with a sentence that names the field; with `strict` for a field
        that is not known, too."""
        ...

    def whole(self, ask: Ask, body: Mapping[str, Any], facts: Facts, completions: Sequence[Completion]) -> Any:
        """The object that answers a request which is not streamed."""
        ...

    def events(self, ask: Ask, body: Mapping[str, Any], facts: Facts) -> Events:
        """The stream of a request."""
        ...

    def failed(self, body: Mapping[str, Any], named: Named, refusal: Refusal) -> list[Event]:
        """All events of a stream that has failed before its model was there."""
        ...

    def refused(self, refusal: Refusal) -> Any:
        """The body of an error."""
        ...
