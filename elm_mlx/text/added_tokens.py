"""Finds the added tokens in a text as the tokenizers library does."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from tokenizers import AddedToken

from elm_mlx.text.token_set import TokenSet


class AddedTokens:
    """The tokens that a tokenizer looks for in a text before anything else."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        tokens = list(tokens)
        self._single = {token.content for token in tokens if token.single_word}
        first, second = ([t.content for t in tokens if t.normalized is later] for later in (False, True))
        # Tokens that are not normalized are looked for first, and the others in what is left.
        self._passes = TokenSet(first), TokenSet(second)

    def split(self, text: str) -> list[str]:
        """Splits `text` into text, token, text, ..., text."""
        first, second = self._passes
        return [
            part
            for place, piece in enumerate(self._split(text, first))
            for part in ([piece] if place % 2 else self._split(piece, second))
        ]

    def _split(self, text: str, tokens: TokenSet) -> list[str]:
        """Splits as `TokenSet.split`, but a token that counts only as a single word is text amid letters."""
        pieces, place = [""], 0
        for number, piece in enumerate(tokens.split(text)):
            end = place + len(piece)
            amid = any(map(is_letter, (*text[max(place - 1, 0) : place], *text[end : end + 1])))
            if number % 2 and not (amid and piece in self._single):
                pieces += [piece, ""]
            else:
                pieces[-1] += piece
            place = end
        return pieces


def is_letter(character: str) -> bool:
    """Whether a character is part of a word for the tokenizers library: \\w of Rust's regular expressions, which counts
    marks and joiners, but no superscript digits."""
    category = unicodedata.category(character)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or character in "\u200c\u200d"
