"""The log-probabilities of an answer's tokens, as the Responses API has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.openai.token_logprobs import told
from elm_mlx.protocols.token_texts import TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel, Piece, TokenLogprob


def entry_of(id: int, entry: TokenLogprob, texts: TokenTexts) -> dict[str, Any]:
    """A token of an answer, with the likeliest ones of its place."""
    return told(texts[id], entry.logprob) | {"top_logprobs": [told(texts[one], x) for one, x in entry.alternatives]}


def logprobs_of(completion: Completion, lm: LanguageModel) -> list[dict[str, Any]]:
    """The entries of a whole answer; none where none were asked for."""
    if completion.logprobs is None:
        return []
    texts = TokenTexts(lm.tokenizer)
    return [entry_of(id, one, texts) for id, one in zip(completion.tokens, completion.logprobs, strict=True)]


class Entries:
    """Collects the entries of the tokens of a text until they are told with it: a token may come before its text."""

    def __init__(self, lm: LanguageModel) -> None:
        self._texts = TokenTexts(lm.tokenizer)
        self._waiting: list[dict[str, Any]] = []

    def add(self, piece: Piece) -> None:
        """Takes the entry of a piece, if it has one. The token that ends an answer is none of its text."""
        if piece.logprob is None or isinstance(piece.stop_reason, int):
            return
        self._waiting.append(entry_of(piece.token, piece.logprob, self._texts))

    def take(self) -> list[dict[str, Any]]:
        """The entries that were not told yet."""
        waiting, self._waiting = self._waiting, []
        return waiting
