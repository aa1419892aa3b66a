"""The log-probabilities of an answer's tokens, as the Responses API has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from elm_mlx.protocols.openai.entries import Entry
from elm_mlx.protocols.openai.token_logprobs import with_others
from elm_mlx.protocols.token_texts import TokenTexts


def told(entries: Iterable[Entry], texts: TokenTexts) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities, each with the likeliest ones of its place. Where bytes are not known, which
    chats tell by null, this API has no value but an empty list."""
    found = [with_others(entry, texts) for entry in entries]
    for one in [*found, *(other for entry in found for other in entry["top_logprobs"])]:
        one["bytes"] = one["bytes"] or []
    return found
