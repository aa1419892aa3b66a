"""Decodes an answer id by id, while its ids still arrive; the text is that of decoding all ids at once."""

from __future__ import annotations

from elm_mlx.text.tokenizer import Tokenizer

MAX_WINDOW = 16  # ids that are decoded again and again while their text may still change
REPLACEMENT = "\ufffd"  # what decoding shows for bytes that are not (yet) a character


class StreamDecoder:
    """Turns ids into text as they arrive: what `add` and the last `flush` return, joined, is `decode` of all ids.

    Only text that a later id can still change is held back: an unfinished character, and a run of byte tokens, which
    the tokenizer shows as characters only if the whole run is valid UTF-8. The window of ids that is decoded each time
    begins with an id whose text is already returned, so that the tokenizer does not strip a space as at the start of a
    text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._sent = 0  # characters of the window's text that were returned

    def add(self, token: int) -> str:
        """Takes the next id and returns the text that can no longer change, possibly empty."""
        if not self._tokenizer.has_text(token):
            return ""
        self._window.append(token)
        if self._tokenizer.is_byte(token):
            return ""
        text = self._tokenizer.decode(self._window)
        settled = text.removesuffix(REPLACEMENT)
        piece = settled[self._sent :]
        self._sent = max(self._sent, len(settled))
        self._advance(whole=settled == text)
        return piece

    def _advance(self, *, whole: bool) -> None:
        """Moves the start of the window to the last id, or, in a long run of bytes that make no character, four ids
        back, which is as far as an unfinished character can reach."""
        tail = self._window[-1:] if whole else self._window[-4:]
        if (whole or len(self._window) > MAX_WINDOW) and not any(map(self._tokenizer.is_byte, tail)):
            shown = self._tokenizer.decode(tail)
            if not whole:
                shown = shown.removesuffix(REPLACEMENT)
            if shown:
                self._window, self._sent = tail, len(shown)

    @property
    def held(self) -> str:
        """The text that is still held back, as decoding all ids shows it."""
        return self._tokenizer.decode(self._window)[self._sent :]

    def flush(self) -> str:
        """Returns the text that is still held back, as decoding all ids shows it, and starts again."""
        piece = self.held
        self._window, self._sent = [], 0
        return piece
