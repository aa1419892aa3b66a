"""Tells the control tokens that a chat template writes from those that stand in a caller's text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from itertools import chain

from tokenizers import AddedToken

from elm_mlx.text.token_set import TokenSet

# Characters that no chat has. A letter becomes a letter, since a token may be looked for as a single word.
LETTERS = range(0x30000, 0x3134B)
PRIVATE = range(0xF0000, 0x10FFFE)
WORD = re.compile(r"[\w.-]*")


class Disguise:
    """Replaces every character of the control tokens, in the caller's strings, by one that nothing else in the prompt
    has: its stand-in.

    What reads as a control token after rendering is the template's own, however the template cut and joined the
    caller's strings. Each character becomes one other, so that trimming, slicing and counting in a template give the
    usual results.

    `added` are the tokens that a tokenizer looks for in a text, `control` the texts of those that no caller may write,
    `used` the characters that may be no stand-ins.
    """

    def __init__(self, added: Iterable[AddedToken], control: Collection[str], used: Collection[str] = ()) -> None:
        added = list(added)
        control = [token for token in control if token.strip()]  # what is blank is layout, and a caller's, too
        self._control = TokenSet(control)
        # The tokenizers library looks for tokens that are not normalized first, and for others in what is left.
        self._searched = [TokenSet(t.content for t in added if t.normalized is later) for later in (False, True)]
        self._single = {token.content for token in added if token.single_word}
        taken = {*used}.union(*(token.content for token in added))
        self._mask = str.maketrans(dict(stand_ins(self._control.alphabet, taken)))
        self._unmask = {ord(stand_in): chr(seen) for seen, stand_in in self._mask.items()}
        self.stand_ins = {token.translate(self._mask): token for token in control}

    def fits(self, used: set[str]) -> bool:
        """Whether no stand-in is among these characters."""
        return used.isdisjoint(map(chr, self._unmask))

    def __call__(self, text: str) -> str:
        """Disguises a caller's text."""
        return text.translate(self._mask)

    def name(self, text: str) -> str:
        """Disguises a role or a key. A plain word that holds no control token stays: a template may build one around
        it."""
        pieces = self._control.split(text) if WORD.fullmatch(text) else [text]
        return text if len(pieces) == 1 and WORD.fullmatch(text) else self(text)

    def reveal(self, text: str) -> str:
        """The text with its original characters again, each in its place."""
        return text.translate(self._unmask)

    def mark(self, rendered: str) -> str:
        """A rendered text in which each control token that the template wrote is replaced by its stand-in, and all else
        has its original characters again."""
        return self._mark(rendered, self._searched)

    def _mark(self, text: str, searched: list[TokenSet]) -> str:
        if not searched:
            return self.reveal(text)
        first, *later = searched
        return "".join(
            self._token(piece) if place % 2 else self._mark(piece, later)
            for place, piece in enumerate(self._found(text, first))
        )

    def _found(self, text: str, tokens: TokenSet) -> list[str]:
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

    def _token(self, token: str) -> str:
        return token.translate(self._mask) if token in self._control else token


def is_letter(character: str) -> bool:
    """Whether a character is part of a word for the tokenizers library: \\w of Rust's regular expressions, which counts
    marks and joiners, but no superscript digits."""
    category = unicodedata.category(character)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or character in "\u200c\u200d"


def stand_ins(characters: Iterable[str], used: Collection[str]) -> Iterable[tuple[str, str]]:
    """Pairs each character with one that is not in `used`, letters with letters."""
    free = {True: chain(LETTERS, PRIVATE), False: iter(PRIVATE[len(PRIVATE) // 2 :])}
    for character in sorted(characters):
        pool = free[is_letter(character)]
        yield character, next(one for code in pool if (one := chr(code)) not in used)
