"""Text of an answer while its ids still arrive: decoding id by id gives the text of decoding all at once."""

from __future__ import annotations

from elm_mlx.text.tokenizer import Tokenizer

MAX_WINDOW = 16  # ids decoded at a time while none of them settles
REPLACEMENT = "\ufffd"  # what decoding shows for bytes that are not (yet) a character


class StreamDecoder:
    """Text as its ids arrive: what `add` and the final `flush` return, joined, is `decode` of all ids.

    Held back is only what a later id can still change: an unfinished character, and a run of byte tokens, which
    the decoder shows as characters only if the whole run is valid UTF-8. The window decoded each time begins with a
    settled id that has text, so that the decoder's rule for the start of a text does not strip a space.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._sent = 0  # characters of the window's text that are out

    def add(self, token: int) -> str:
        """The text that `token` settles, possibly empty."""
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
        """Begins the window anew: at the last id, or, in a long run of bytes that make no character, four ids back,
        which is as far as an unfinished character can reach."""
        tail = self._window[-1:] if whole else self._window[-4:]
        if (whole or len(self._window) > MAX_WINDOW) and not any(map(self._tokenizer.is_byte, tail)):
            shown = self._tokenizer.decode(tail)
            if not whole:
                shown = shown.removesuffix(REPLACEMENT)
            if shown:
                self._window, self._sent = tail, len(shown)

    def flush(self) -> str:
        """What is still held back, as the full decoding shows it."""
        piece = self._tokenizer.decode(self._window)[self._sent :]
        self._window, self._sent = [], 0
        return piece
