"""Finds the added tokens in a text as the tokenizers library does."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from tokenizers import AddedToken

from elm_mlx.text.token_set import TokenSet


class AddedTokens:
    """The tokens that a tokenizer looks for in a text before anything else."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens = tokens = list(tokens)
        self._single = {token.content for token in tokens if token.single_word}
        self._left = {token.content for token in tokens if token.lstrip}
        self._right = {token.content for token in tokens if token.rstrip}
        # Tokens that are not normalized are looked for first, and the others in what is left.
        self._first = TokenSet(token.content for token in tokens if not token.normalized)
        self._second = TokenSet(token.content for token in tokens if token.normalized)
        self.alphabet = self._first.alphabet | self._second.alphabet

    def without(self, texts: Iterable[str]) -> AddedTokens:
        """The tokens but for those with these texts."""
        left_out = set(texts)
        return AddedTokens(token for token in self._tokens if token.content not in left_out)

    def split(self, text: str) -> list[str]:
        """Splits `text` into text, token, text, ..., text. Blanks that a token takes with it stay in the text."""
        pieces, found = self._split(text, self._first), []
        for place in range(0, len(pieces), 2):
            before, middle, after = self._cut_blanks(pieces, place)
            parts = self._split(middle, self._second)
            parts[0] = before + parts[0]
            parts[-1] += after
            found += [*parts, *pieces[place + 1 : place + 2]]
        return found

    def _cut_blanks(self, pieces: list[str], place: int) -> tuple[str, str, str]:
        """Cuts a text between two tokens into the blanks that the first one takes with it, what is left to look
        through, and the blanks that the second one takes."""
        text = pieces[place]
        begin = len(text) - len(text.lstrip()) if place and pieces[place - 1] in self._right else 0
        is_cut = place + 1 < len(pieces) and pieces[place + 1] in self._left
        end = max(begin, len(text.rstrip())) if is_cut else len(text)
        return text[:begin], text[begin:end], text[end:]

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
