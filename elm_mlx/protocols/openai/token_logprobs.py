"""Log-probabilities as OpenAI's answers have them: by the texts of tokens, not by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from elm_mlx.protocols.openai.entries import Entry
from elm_mlx.protocols.token_texts import Token

if TYPE_CHECKING:
    from elm_mlx.api import TokenLogprob

LEAST = -9999.0  # what OpenAI writes for the logarithm of 0


class Tokens(Protocol):
    """Tokens by their ids: a TokenTexts, or a dict."""

    def __getitem__(self, id: int, /) -> Token:
        """The token of an id."""
        ...


def of_chat(entries: Iterable[Entry], tokens: Tokens) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat.completion, or of a chunk."""
    return {"content": [with_others(one, tokens) for one in entries], "refusal": None}


def with_others(entry: Entry, tokens: Tokens) -> dict[str, Any]:
    """One token of an answer, with the likeliest ones at its place."""
    assert entry.logprob  # it is None in prompts alone
    others = [told(tokens[id], x) for id, x in entry.logprob.alternatives]
    return told(entry.token, entry.logprob.logprob) | {"top_logprobs": others}


def told(token: Token, logprob: float) -> dict[str, Any]:
    """One token with its log-probability."""
    data = None if token.data is None else list(token.data)
    return {"token": token.text, "logprob": max(logprob, LEAST), "bytes": data}


def of_text(entries: Iterable[Entry], tokens: Tokens, offset: int = 0) -> dict[str, Any]:
    """The `logprobs` of a choice of a text_completion, or of a chunk of it; `offset` characters of the choice's text
    stand before the entries. Of two alternatives with one text the likelier one stays. What has no log-probability has
    null, as OpenAI has it for the first token of a prompt."""
    listed = list(entries)
    return {
        "text_offset": [offset + one.offset for one in listed],
        "token_logprobs": [one.logprob and max(one.logprob.logprob, LEAST) for one in listed],
        "tokens": [one.token.name for one in listed],
        "top_logprobs": [one.logprob and by_text(one.logprob, tokens) for one in listed],
    }


def after(first: Mapping[str, list[Any]] | None, second: dict[str, Any]) -> dict[str, Any]:
    """The `logprobs` of a text that has two parts."""
    return second if first is None else {name: [*first[name], *values] for name, values in second.items()}


def by_text(entry: TokenLogprob, tokens: Tokens) -> dict[str, float]:
    """The log-probabilities of the alternatives of one place by their texts, the likeliest first."""
    found: dict[str, float] = {}
    for id, x in entry.alternatives:
        found.setdefault(tokens[id].name, max(x, LEAST))
    return found
