"""The tokens in a GGUF file's metadata: lists that must fit each other.

Kinds of tokens: ggml-org/llama.cpp llama.h, `llama_token_type`, which are SentencePiece's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elm_mlx.convert.tokenizer.sentencepiece import CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from elm_mlx.errors import BadCheckpoint, Unsupported

KEY = "tokenizer.ggml."
ADDED = {
    UNKNOWN: True,
    CONTROL: True,
    USER_DEFINED: False,
}  # kinds that are no pieces of text; whether they are special


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model in the order of their ids, without unused ones at the end: texts, kinds, and scores where
    there are some. Those from `boundary` on were added to the vocabulary that was learned."""

    texts: list[str]
    kinds: list[int]
    scores: list[float]
    boundary: int

    def added(self, begin: int) -> list[dict[str, Any]]:
        """The entries of `added_tokens` for the tokens from an id on that are no pieces of text."""
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": id, "content": self.texts[id]} | plain | {"special": ADDED[self.kinds[id]]}
            for id in range(begin, len(self.texts))
            if self.kinds[id] in ADDED
        ]


def read_vocabulary(where: Path, metadata: Mapping[str, Any]) -> Vocabulary:
    """The tokens of the metadata. Raises BadCheckpoint where lists are missing or do not fit each other, or two tokens
    are one, and Unsupported where nothing says which tokens are special."""
    texts = metadata.get(f"{KEY}tokens")
    if not isinstance(texts, list) or not texts:
        raise BadCheckpoint(f"{where} has no list of tokens in its metadata. Fetch it again.")
    if not (kinds := numbers(where, metadata, "token_type", len(texts))):
        raise Unsupported(f"{where} does not say of what kind its tokens are, so that special ones look like text.",
                          "Give the model's own tokenizer: {tokenizer=PATH}.")  # fmt: skip
    scores = numbers(where, metadata, "scores", len(texts))
    if not np.isfinite(scores).all():
        raise BadCheckpoint(f"{where} has tokens whose scores are NaN or infinite. Fetch it again.")
    count = 1 + max((id for id, kind in enumerate(kinds) if kind != UNUSED), default=0)
    if len({*texts[:count]}) < count:
        raise BadCheckpoint(f"{where} has one token twice. Fetch it again.")
    boundary = 1 + max((id for id in range(count) if kinds[id] not in ADDED), default=-1)
    return Vocabulary(texts[:count], kinds[:count], scores[:count], boundary)


def numbers(where: Path, metadata: Mapping[str, Any], name: str, count: int) -> list[Any]:
    """The list of so many numbers under a key, empty where there is none. Raises BadCheckpoint for anything else."""
    found = metadata.get(KEY + name)
    if found is None:
        return []
    if not isinstance(found, np.ndarray) or len(found) != count:
        raise BadCheckpoint(f"{where}: {KEY}{name} is not a list of {count} numbers, one a token. Fetch it again.")
    listed: list[Any] = found.tolist()
    return listed
