"""Tells the control tokens that a chat template writes from those that stand in a caller's text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import chain

from tokenizers import AddedToken

from elm_mlx.text.token_set import TokenSet

# Characters that no chat has. A letter becomes a letter, since a token may be looked for as a single word.
LETTERS = range(0x30000, 0x3134B)
PRIVATE = range(0xF0000, 0x10FFFE)


class Disguise:
    """Replaces control tokens in the caller's strings by characters that nothing else in the prompt has: stand-ins.

    What still reads as a control token after rendering is the template's own. The end of a string that begins a token,
    or the start that ends one, is disguised, too: the template's text beside it might complete the token. Each
    character becomes one other, so that trimming, slicing and counting in a template give the usual results.

    `added` are the tokens that a tokenizer looks for in a text, `control` the texts of those that no caller may write,
    `used` the characters that may be no stand-ins.
    """

    def __init__(self, added: Iterable[AddedToken], control: Collection[str], used: Collection[str] = ()) -> None:
        added = list(added)
        self._control = TokenSet(control)
        # The tokenizers library looks for tokens that are not normalized first, and for others in what is left.
        self._searched = [TokenSet(t.content for t in added if t.normalized is later) for later in (False, True)]
        self._mask = str.maketrans(dict(stand_ins(self._control.alphabet, used)))
        self._unmask = {ord(stand_in): chr(seen) for seen, stand_in in self._mask.items()}
        self.stand_ins = {token.translate(self._mask): token for token in control}

    def fits(self, used: set[str]) -> bool:
        """Whether no stand-in is among these characters."""
        return used.isdisjoint(map(chr, self._unmask))

    def __call__(self, text: str) -> str:
        """Disguises the control tokens in a caller's text."""
        pieces = self._control.split(text)
        text = "".join(piece.translate(self._mask) if place % 2 else piece for place, piece in enumerate(pieces))
        head, tail = self._control.tail_size(text), self._control.head_size(text)
        middle = max(head, len(text) - tail)
        return text[:head].translate(self._mask) + text[head:middle] + text[middle:].translate(self._mask)

    def reveal(self, text: str) -> str:
        """The text with its original characters again."""
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
            for place, piece in enumerate(first.split(text))
        )

    def _token(self, token: str) -> str:
        return token.translate(self._mask) if token in self._control else token


def stand_ins(characters: Iterable[str], used: Collection[str]) -> Iterable[tuple[str, str]]:
    """Pairs each character with one that is not in `used`, letters with letters."""
    free = {True: chain(LETTERS, PRIVATE), False: iter(PRIVATE[len(PRIVATE) // 2 :])}
    for character in sorted(characters):
        pool = free[bool(re.match(r"\w", character))]
        yield character, next(one for code in pool if (one := chr(code)) not in used)
