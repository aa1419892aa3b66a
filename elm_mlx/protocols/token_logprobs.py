"""Log-probabilities as answers of OpenAI's APIs have them: by the texts of tokens, not by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elm_mlx.api import Completion, TokenLogprob
    from elm_mlx.text.tokenizer import Tokenizer

LEAST = -9999.0  # what OpenAI writes for the logarithm of 0
REPLACEMENT = "\ufffd"  # what decoding shows for bytes that are no character


def texts_of(tokenizer: Tokenizer, completion: Completion) -> dict[int, str]:
    """The text of every id that the log-probabilities of an answer name."""
    others = [id for entry in completion.logprobs or () for id, _ in entry.alternatives]
    return token_texts(tokenizer, {*completion.tokens, *others})


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[int, str]:
    """The text of each id as it stands within a text, by the id. A special token has its own text.

    An id is decoded behind another one, as a tokenizer may leave out a space at the beginning of a text.
    """
    special = {id: text for text, id in tokenizer.control_ids.items()}
    first = tokenizer.encode_text("a")[-1:]
    before = len(tokenizer.decode(first))
    return {id: special.get(id) or tokenizer.decode([*first, id])[before:] for id in ids}


def of_chat(completion: Completion, texts: Mapping[int, str]) -> dict[str, Any] | None:
    """The `logprobs` of a choice of a chat.completion, or None where none were asked for."""
    if completion.logprobs is None:
        return None
    content = [
        told(texts[id], entry.logprob) | {"top_logprobs": [told(texts[other], x) for other, x in entry.alternatives]}
        for id, entry in zip(completion.tokens, completion.logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


def told(text: str, logprob: float) -> dict[str, Any]:
    """One token with its log-probability. Its bytes are null where it is no whole character."""
    return {
        "token": text,
        "logprob": max(logprob, LEAST),
        "bytes": None if REPLACEMENT in text else list(text.encode()),
    }


def of_text(completion: Completion, texts: Mapping[int, str]) -> dict[str, Any] | None:
    """The `logprobs` of a choice of a text_completion, or None where none were asked for. Of two alternatives with one
    text the likelier one stays."""
    if completion.logprobs is None:
        return None
    tokens = [texts[id] for id in completion.tokens]
    return {
        "text_offset": [0, *accumulate(map(len, tokens))][: len(tokens)],
        "token_logprobs": [max(entry.logprob, LEAST) for entry in completion.logprobs],
        "tokens": tokens,
        "top_logprobs": [by_text(entry, texts) for entry in completion.logprobs],
    }


def by_text(entry: TokenLogprob, texts: Mapping[int, str]) -> dict[str, float]:
    """The log-probabilities of the alternatives of one place by their texts, the likeliest first."""
    found: dict[str, float] = {}
    for id, x in entry.alternatives:
        found.setdefault(texts[id], max(x, LEAST))
    return found
