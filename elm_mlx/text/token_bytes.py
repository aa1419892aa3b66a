"""What each id of a vocabulary adds to a text, in bytes: the ground on which a form of text becomes one of ids."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from elm_mlx.errors import NotEnforceable
from elm_mlx.text.tokenizer import BYTE_TOKEN, Tokenizer

SAMPLES = 1000  # ids whose bytes are compared with what the tokenizer itself decodes
BLANK = b" "


class Blanks(NamedTuple):
    """The ids that begin with a blank, where the first blank of an answer is not shown.

    `ids` are those that go on after it; for each of them `rest` has ids that spell what goes on, and `first` the first
    of these. `alone` are those that are only a blank.
    """

    ids: np.ndarray
    first: np.ndarray
    rest: list[tuple[int, ...]]
    alone: frozenset[int]


class TokenBytes:
    """The bytes that the ids 0 to `rows` - 1 of a model stand for inside a text: none for special tokens, for what the
    tokenizer does not have, and for ids beyond it.

    Raises NotEnforceable for a tokenizer that joins its tokens in another way than those of OpenELM and Llama do, which
    is compared with its own decoding.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        self.rows = rows
        self.control = frozenset(tokenizer.control_ids.values())
        self.of = bytes_of_all(tokenizer, rows, self.control)
        self._compare(tokenizer)

    def _compare(self, tokenizer: Tokenizer) -> None:
        """Raises NotEnforceable where the tokenizer decodes some ids to another text than their bytes."""
        anchor = self.of.index(b"a") if b"a" in self.of else next((i for i, x in enumerate(self.of) if x.isalpha()), 0)
        front = self.of[anchor].decode()
        added = [id for id in tokenizer.added_ids.values() if id < self.rows]
        for id in (*range(0, self.rows, max(self.rows // SAMPLES, 1)), *added[:SAMPLES]):
            text = as_text(self.of[id])
            if text and tokenizer.decode([anchor, id]) != front + text:
                raise other_kind()

    def _compare_blanks(self, tokenizer: Tokenizer, starting: list[int]) -> None:
        """Raises NotEnforceable where another part of a text is left out than its first blank."""
        alone = [id for id in starting if self.of[id] == BLANK]
        for id in starting[:SAMPLES]:
            text = self.of[id].decode()
            if tokenizer.decode([id]) != text[1:] or any(tokenizer.decode([one, id]) != text for one in alone):
                raise other_kind()

    @cached_property
    def longest(self) -> int:
        """The most bytes of one id."""
        return max(map(len, self.of))

    def blanks(self, tokenizer: Tokenizer) -> Blanks | None:
        """The ids that begin with a blank, where decoding leaves out the first blank of a text; None where it does
        not."""
        starting = [id for id, data in enumerate(self.of) if data.startswith(BLANK)]
        if all(tokenizer.decode([id]) == as_text(self.of[id]) for id in starting[:SAMPLES]):
            return None
        self._compare_blanks(tokenizer, starting)
        by_bytes = {data: id for id, data in enumerate(self.of) if data}
        spelled = {id: spelling(self.of[id][1:], by_bytes, self.longest) for id in starting}
        found = {id: rest for id, rest in spelled.items() if rest}
        first = [rest[0] for rest in found.values()]
        alone = frozenset(id for id in starting if self.of[id] == BLANK)
        return Blanks(np.array(list(found), np.int64), np.array(first, np.int64), list(found.values()), alone)


def spelling(data: bytes, by_bytes: Mapping[bytes, int], longest: int) -> tuple[int, ...]:
    """Ids of which these bytes are made, each the longest that fits; none where there are none."""
    ids, place = [], 0
    while place < len(data):
        end = min(place + longest, len(data))
        size = next((n for n in range(end - place, 0, -1) if data[place : place + n] in by_bytes), 0)
        if not size:
            return ()
        ids.append(by_bytes[data[place : place + size]])
        place += size
    return tuple(ids)


def other_kind() -> NotEnforceable:
    """The error for a tokenizer that is none of the known kinds."""
    return NotEnforceable("This model's tokenizer joins tokens in a way that the form of an answer cannot follow. Ask "
                          "for the answer without one.")  # fmt: skip


def as_text(data: bytes) -> str | None:
    """The bytes as text, or None where they are no whole characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def bytes_of_all(tokenizer: Tokenizer, rows: int, control: frozenset[int]) -> list[bytes]:
    """The bytes of the ids 0 to `rows` - 1. In a vocabulary of bytes each letter stands for one (GPT-2's alphabet);
    in the other kind U+2581 is a blank, and <0x41> a byte."""
    found = [b""] * rows
    read = from_letters if tokenizer.is_of_bytes else from_pieces
    for id, text in tokenizer.words(rows):
        if id not in control:
            found[id] = read(text)
    for text, id in tokenizer.added_ids.items():
        if id < rows and id not in control:
            found[id] = text.encode()
    return found


def from_pieces(text: str) -> bytes:
    """The bytes of a token as SentencePiece writes it."""
    return bytes([int(text[3:5], 16)]) if BYTE_TOKEN.fullmatch(text) else text.replace("\u2581", " ").encode()


def from_letters(text: str) -> bytes:
    """The bytes of a token as GPT-2 writes it, a letter each; those of its text where another letter is in it."""
    try:
        return text.translate(LETTERS).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def letters_of_bytes() -> dict[int, int]:
    """GPT-2's alphabet: the letter -> the byte that it stands for. Bytes that can be seen are their own letters, the
    others get those from U+0100 on (openai/gpt-2, `bytes_to_unicode` in src/encoder.py)."""
    seen = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: byte for byte in seen} | {256 + place: byte for place, byte in enumerate(hidden)}


LETTERS = letters_of_bytes()
