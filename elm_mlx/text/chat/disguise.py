"""Hides the control tokens in a caller's text from a chat template and from the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Disguise:
    """Replaces control tokens in the caller's strings by private characters that nothing else in the prompt has.

    What still reads as a control token after rendering is the template's own. The end of a string that begins a token,
    or the start that ends one, is disguised, too: the template's text beside it might complete the token. Each
    character becomes one other, so that trimming, slicing and counting in a template give the usual results.
    """

    def __init__(self, tokens: Iterable[str], used: set[str]) -> None:
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self.control = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        self._heads = {token[:end] for token in longest_first for end in range(1, len(token))}
        self._tails = {token[start:] for token in longest_first for start in range(1, len(token))}
        self._longest = len(longest_first[0]) if longest_first else 0
        private = (c for c in map(chr, range(0xF0000, 0x10FFFE)) if c not in used)
        mask = dict(zip(sorted(set("".join(longest_first))), private, strict=False))
        self._mask = str.maketrans(mask)
        self._unmask = str.maketrans({hidden: seen for seen, hidden in mask.items()})

    def __call__(self, text: str) -> str:
        text = self.control.sub(lambda match: match[0].translate(self._mask), text)
        sizes = range(min(self._longest, len(text)), 0, -1)
        head = next((n for n in sizes if text[:n] in self._tails), 0)
        tail = next((n for n in sizes if text[-n:] in self._heads), 0)
        middle = len(text) - tail
        return text[:head].translate(self._mask) + text[head:middle] + text[max(head, middle) :].translate(self._mask)

    def reveal(self, text: str) -> str:
        """Returns `text` in its original characters; those of the result stand where those of `text` did."""
        return text.translate(self._unmask)

    def ends(self, text: str) -> str:
        """Disguises the ends of a text that was cut, where a neighbour might complete them; whole tokens stay."""
        sizes = range(min(self._longest, len(text)), 0, -1)
        head = next((n for n in sizes if text[:n] in self._tails), 0)
        tail = next((n for n in sizes if text[-n:] in self._heads), 0)
        if head:
            near = head + self._longest
            text = self._without_tokens(text[:near], 0, head) + text[near:]
        if tail:
            far = max(0, len(text) - tail - self._longest)
            text = text[:far] + self._without_tokens(text[far:], len(text) - far - tail, len(text))
        return text

    def _without_tokens(self, text: str, start: int, end: int) -> str:
        """Disguises text[start:end], but for the parts of whole tokens."""
        hidden = text[:start] + text[start:end].translate(self._mask) + text[end:]
        for token in self.control.finditer(text):
            hidden = hidden[: token.start()] + token[0] + hidden[token.end() :]
        return hidden

    def split(self, text: str) -> list[str]:
        """Splits a rendered text into text, control token, text, ..., text, in the original characters again."""
        return [piece.translate(self._unmask) for piece in self.control.split(text)]
