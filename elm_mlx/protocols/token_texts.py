"""The text and the bytes of each token of an answer, as log-probabilities name them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from elm_mlx.text.token_bytes import from_letters, from_pieces

if TYPE_CHECKING:
    from elm_mlx.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what decoding shows for bytes that are no character


class Token(NamedTuple):
    """A token's text, as decoding shows it within a text, and its bytes: None where they are not known. A token that is
    no whole character has U+FFFD in its text; its bytes are right all the same."""

    text: str
    data: bytes | None

    @property
    def name(self) -> str:
        """What tells this token from others: its text or, as OpenAI's completions write it where that is no whole
        character, "bytes:" and the bytes."""
        if REPLACEMENT not in self.text or not self.data:
            return self.text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.data)

    def without_blank(self) -> Token:
        """The token without a blank at its beginning."""
        return Token(self.text.removeprefix(" "), self.data.removeprefix(b" ") if self.data else self.data)


class TokenTexts:
    """The tokens of a tokenizer by their ids. A special token has its own text.

    An id is decoded behind another one, as a tokenizer may leave out a blank at the beginning of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, Token] = {}

    @cached_property
    def _special(self) -> dict[int, str]:
        """The special tokens."""
        return {id: text for text, id in self._tokenizer.control_ids.items()}

    @cached_property
    def _front(self) -> tuple[list[int], int]:
        """What each id is decoded behind, and how many characters that has."""
        first = self._tokenizer.encode_text("a")[-1:]
        return first, len(self._tokenizer.decode(first))

    def __getitem__(self, id: int) -> Token:
        """The token of an id. Raises InvalidRequest for what is no id of the model."""
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = self._token(id)
        return found

    def _token(self, id: int) -> Token:
        if text := self._special.get(id):
            return Token(text, text.encode())
        first, before = self._front
        text = self._tokenizer.decode([*first, id])[before:]
        return Token(text, self._bytes(id) if REPLACEMENT in text else text.encode())

    def _bytes(self, id: int) -> bytes | None:
        """The bytes of a token that is no whole character, by how its vocabulary writes it."""
        if (written := self._tokenizer.written(id)) is None:
            return None
        return from_letters(written) if self._tokenizer.is_of_bytes else from_pieces(written)

    def is_special(self, id: int) -> bool:
        """Whether the texts of answers leave this token out."""
        return id in self._special

    def loses_blank(self, id: int) -> bool:
        """Whether this token begins with a blank that decoding leaves out at the beginning of a text."""
        return self[id].text.startswith(" ") and not self._tokenizer.decode([id]).startswith(" ")
