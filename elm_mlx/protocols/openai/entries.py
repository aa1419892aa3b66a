"""The tokens of one answer with their log-probabilities, in step with the answer's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from elm_mlx.protocols.dialect import ScoredPrompt
from elm_mlx.protocols.token_texts import Token, TokenTexts

if TYPE_CHECKING:
    from elm_mlx.api import Completion, TokenLogprob

CONTINUES, MASK = 0x80, 0xC0  # the two highest bits of a byte of UTF-8 that begins no character


class Entry(NamedTuple):
    """A token of an answer. `start` is how many bytes of the answer stand before it, `offset` how many characters. The
    first token of a prompt has no log-probability."""

    token: Token
    logprob: TokenLogprob | None
    start: int
    offset: int


class Entries:
    """Takes the tokens of an answer as they are drawn, and gives each when the text that it belongs to is given: text
    may be held back, since a stop string can begin in it. The texts of all entries, joined, are the answer's text.

    A token within which a stop string begins stays as it is. Where an answer has reasoning or calls of tools, their
    tokens are entries, too.
    """

    def __init__(self, texts: TokenTexts, *, keeps_blank: bool = False) -> None:
        """With `keeps_blank` the answer's text has a blank that stands before its first word."""
        self._texts, self._keeps_blank = texts, keeps_blank
        self._pending: list[Entry] = []
        self._data = bytearray()  # of all tokens
        self._characters = self._given = 0

    def add(self, id: int, logprob: TokenLogprob | None) -> None:
        """Takes the next token."""
        token = self._texts[id]
        if not self._data and not self._keeps_blank and self._texts.loses_blank(id):
            token = token.without_blank()
        self._pending.append(Entry(token, logprob, len(self._data), self._characters))
        if not self._texts.is_special(id):
            data = token.data or b""
            self._data += data
            self._characters += sum(byte & MASK != CONTINUES for byte in data)

    def given(self, text: str) -> list[Entry]:
        """The entries that begin in the text which has been given by now; `text` is what was added to it."""
        self._given += len(text.encode())
        count = next((at for at, one in enumerate(self._pending) if one.start >= self._given), len(self._pending))
        found, self._pending = self._pending[:count], self._pending[count:]
        return found

    def rest(self, stop: object) -> list[Entry]:
        """The entries that are left when the answer has ended: where a stop string ended it, only those that begin
        before that. `stop` is the answer's stop_reason."""
        cut = self._data.find(stop.encode()) if isinstance(stop, str) else -1
        found, self._pending = self._pending, []
        return found if cut < 0 else [one for one in found if one.start < cut]


def prompt_entries(scored: ScoredPrompt, texts: TokenTexts) -> list[Entry]:
    """The entries of a prompt."""
    entries = Entries(texts)
    for id, logprob in zip(scored.ids, scored.logprobs, strict=True):
        entries.add(id, logprob)
    return entries.rest(None)


def entries_of(
    completion: Completion, texts: TokenTexts, *, keeps_blank: bool = False, behind: str = ""
) -> list[Entry]:
    """The entries of a whole answer, which was asked for with log-probabilities; only those `behind` a text with which
    it begins, as its reasoning."""
    entries = Entries(texts, keeps_blank=keeps_blank)
    for id, logprob in zip(completion.tokens, completion.logprobs or (), strict=True):
        entries.add(id, logprob)
    entries.given(behind)
    return entries.rest(completion.stop_reason)
