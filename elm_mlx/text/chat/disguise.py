"""Tells the control tokens that a chat template writes from those that stand in a caller's text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from elm_mlx.text.added_tokens import AddedTokens, is_letter
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

    def __init__(self, added: AddedTokens, control: Collection[str], used: Collection[str] = ()) -> None:
        control = [token for token in control if token.strip()]  # what is blank is layout, and a caller's, too
        self._added, self._ordinary, self._control = added, added.without(control), TokenSet(control)
        taken = added.alphabet.union(used)
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
        return text if WORD.fullmatch(text) and self._control.split(text) == [text] else self(text)

    def reveal(self, text: str) -> str:
        """The text with its original characters again, each in its place."""
        return text.translate(self._unmask)

    def mark(self, rendered: str) -> list[str]:
        """Cuts a rendered text into text, stand-in, text, ..., text: a stand-in for each control token that the
        template wrote, and all else in its original characters again."""
        pieces, place = [""], 0
        for number, piece in enumerate(self._added.split(self._reveal_ordinary(rendered))):
            end = place + len(piece)
            if number % 2 and piece in self._control and rendered[place:end] == piece:
                pieces += [piece.translate(self._mask), ""]
            else:
                pieces[-1] += self.reveal(piece)
            place = end
        return pieces

    def _reveal_ordinary(self, rendered: str) -> str:
        """The rendered text in which added tokens that are no control have their original characters, in a caller's
        text, too: what is found beside a token depends on where that ends."""
        pieces, place = [], 0
        for number, piece in enumerate(self._ordinary.split(self.reveal(rendered))):
            pieces.append(piece if number % 2 else rendered[place : place + len(piece)])
            place += len(piece)
        return "".join(pieces)


def stand_ins(characters: Iterable[str], used: Collection[str]) -> Iterator[tuple[str, str]]:
    """Pairs each character with one that is not in `used`, letters with letters. Blanks stay as they are: what a
    template or a token's flags do with blanks around a token is then as without a disguise."""
    free = {True: chain(LETTERS, PRIVATE), False: iter(PRIVATE[len(PRIVATE) // 2 :])}
    for character in sorted(characters):
        if not character.isspace():
            pool = free[is_letter(character)]
            yield character, next(one for code in pool if (one := chr(code)) not in used)
