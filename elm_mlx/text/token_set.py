"""Finds the tokens of a set in a text as the tokenizers library does, in time that hardly depends on how many there
are."""

from __future__ import annotations

import re
from collections.abc import Iterable


class TokenSet:
    """The texts of some tokens: there may be tens of thousands."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = frozenset(filter(None, tokens))
        self._lengths: dict[str, list[int]] = {}
        for first, length in sorted({(token[0], len(token)) for token in self._tokens}, reverse=True):
            self._lengths.setdefault(first, []).append(length)
        self._first = re.compile(f"[{re.escape(''.join(sorted(self._lengths)))}]" if self._lengths else "(?!)")

    def __contains__(self, text: str) -> bool:
        return text in self._tokens

    @property
    def alphabet(self) -> set[str]:
        """Every character of the tokens."""
        return set().union(*self._tokens)

    def split(self, text: str) -> list[str]:
        """Splits `text` into text, token, text, ..., text. A token is the leftmost, and of those that begin at one
        place the longest."""
        pieces, end, at = [], 0, 0
        while found := self._first.search(text, at):
            at = found.start()
            size = next((n for n in self._lengths[found[0]] if text[at : at + n] in self._tokens), 0)
            if size:
                pieces += [text[end:at], text[at : at + size]]
                end = at + size
            at += size or 1
        return [*pieces, text[end:]]
