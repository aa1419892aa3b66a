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
    """Replaces control tokens in the caller's strings by characters that nothing else in the prompt has: stand-ins.

    What still reads as a control token after rendering is the template's own. The end of a string that begins a token,
    or the start that ends one, is disguised, too: the template's text beside it might complete the token. Each
    character becomes one other, so that trimming, slicing and counting in a template give the usual results.

    `added` are the tokens that a tokenizer looks for in a text, `control` the texts of those that no caller may write,
    `used` the characters that may be no stand-ins.
    """

    def __init__(self, added: AddedTokens, control: Collection[str], used: Collection[str] = ()) -> None:
        control = [token for token in control if token.strip()]  # what is blank is layout, and a caller's, too
        self._added, self._control = added, TokenSet(control)
        self._mask = str.maketrans(dict(stand_ins(self._control.alphabet, used)))
        self._unmask = {ord(stand_in): chr(seen) for seen, stand_in in self._mask.items()}
        self.stand_ins = {token.translate(self._mask): token for token in control}

    def fits(self, used: set[str]) -> bool:
        """Whether no stand-in is among these characters."""
        return used.isdisjoint(map(chr, self._unmask))

    def __call__(self, text: str) -> str:
        """Disguises the control tokens in a caller's text."""
        text = self._hide_tokens(text)
        head, tail = self._control.tail_size(text), self._control.head_size(text)
        middle = max(head, len(text) - tail)
        return text[:head].translate(self._mask) + text[head:middle] + text[middle:].translate(self._mask)

    def name(self, text: str) -> str:
        """Disguises a role or a key. The ends of a plain word stay: a template may build a token around it."""
        return self._hide_tokens(text) if WORD.fullmatch(text) else self(text)

    def _hide_tokens(self, text: str) -> str:
        pieces = self._control.split(text)
        return "".join(piece.translate(self._mask) if place % 2 else piece for place, piece in enumerate(pieces))

    def ends(self, text: str) -> str:
        """Disguises the ends of a text that was cut, where a neighbour might complete them; whole tokens stay."""
        reach, head, tail = self._control.longest, self._control.tail_size(text), self._control.head_size(text)
        if head:
            text = self._hide_end(text[: head + reach], 0, head) + text[head + reach :]
        if tail:
            far = max(0, len(text) - tail - reach)
            text = text[:far] + self._hide_end(text[far:], len(text) - far - tail, len(text))
        return text

    def _hide_end(self, text: str, start: int, end: int) -> str:
        """Disguises text[start:end], but for the parts of whole tokens."""
        hidden = text[:start] + text[start:end].translate(self._mask) + text[end:]
        pieces, place = self._control.split(text), 0
        for number, piece in enumerate(pieces):
            if number % 2:
                hidden = hidden[:place] + piece + hidden[place + len(piece) :]
            place += len(piece)
        return hidden

    def reveal(self, text: str) -> str:
        """The text with its original characters again, each in its place."""
        return text.translate(self._unmask)

    def mark(self, rendered: str) -> list[str]:
        """Cuts a rendered text into text, stand-in, text, ..., text: a stand-in for each control token that the
        template wrote, and all else in its original characters again."""
        pieces = [""]
        for place, piece in enumerate(self._added.split(rendered)):
            if place % 2 and piece in self._control:
                pieces += [piece.translate(self._mask), ""]
            else:
                pieces[-1] += self.reveal(piece)
        return pieces


def stand_ins(characters: Iterable[str], used: Collection[str]) -> Iterator[tuple[str, str]]:
    """Pairs each character with one that is not in `used`, letters with letters. Blanks stay as they are: what a
    template or a token's flags do with blanks around a token is then as without a disguise."""
    free = {True: chain(LETTERS, PRIVATE), False: iter(PRIVATE[len(PRIVATE) // 2 :])}
    for character in sorted(characters):
        if not character.isspace():
            pool = free[is_letter(character)]
            yield character, next(one for code in pool if (one := chr(code)) not in used)
