"""The log-probabilities of an answer's tokens, as the Responses API has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elm_mlx.protocols.token_logprobs import LEAST, texts_of, token_texts

if TYPE_CHECKING:
    from elm_mlx.api import Completion, LanguageModel, Piece, TokenLogprob


def told(text: str, logprob: float) -> dict[str, Any]:
    """One token with its log-probability. The bytes of one that is no whole character are those of what is shown."""
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(text.encode())}


def entry_of(id: int, entry: TokenLogprob, texts: dict[int, str]) -> dict[str, Any]:
    """A token of an answer, with the likeliest ones of its place."""
    return told(texts[id], entry.logprob) | {"top_logprobs": [told(texts[one], x) for one, x in entry.alternatives]}


def logprobs_of(completion: Completion, lm: LanguageModel) -> list[dict[str, Any]]:
    """The entries of a whole answer; none where none were asked for."""
    if completion.logprobs is None:
        return []
    texts = texts_of(lm.tokenizer, completion)
    return [entry_of(id, one, texts) for id, one in zip(completion.tokens, completion.logprobs, strict=True)]


class Entries:
    """Collects the entries of the tokens of a text until they are told with it: a token may come before its text."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._waiting: list[dict[str, Any]] = []

    def add(self, piece: Piece) -> None:
        """Takes the entry of a piece, if it has one. The token that ends an answer is none of its text."""
        if piece.logprob is None or isinstance(piece.stop_reason, int):
            return
        texts = token_texts(self._lm.tokenizer, {piece.token, *(id for id, _ in piece.logprob.alternatives)})
        self._waiting.append(entry_of(piece.token, piece.logprob, texts))

    def take(self) -> list[dict[str, Any]]:
        """The entries that were not told yet."""
        waiting, self._waiting = self._waiting, []
        return waiting
