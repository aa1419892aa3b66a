"""Ends an answer where its text has a stop string, and gives its text up to there, while its ids still arrive."""

from __future__ import annotations

from collections.abc import Iterable

from elm_mlx.text.byte_run import ByteRun
from elm_mlx.text.stops import START, Stops
from elm_mlx.text.stream_decoder import StreamDecoder
from elm_mlx.text.tokenizer import Tokenizer


class StopStrings:
    """Reads the ids of one answer: an engine.stopper.Stopper, and the decoder of those who read the answer.

    The answer ends with the first id with which the text of all ids so far, as `Tokenizer.decode` shows it, has a stop
    string. It has one however the tokens cut it: inside a token, over several, from bytes. Of several that become whole
    with one id the one with the earliest beginning counts, and of those with one beginning the shortest. The text is
    what stands before it. Until then only the longest end of the text is held back that a stop string begins with, and
    what StreamDecoder holds back, since a later id can still change it. U+FFFD, which decoding shows for bytes that are
    no character, counts in a stop string once it is certain.

    The cost of an id does not grow with the answer, nor does what is kept of it, a run of byte tokens aside, which
    StreamDecoder keeps whole.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Stops) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._decoder = StreamDecoder(tokenizer)
        self._state, self._held = START, ""  # of the text that is certain
        self._run, self._ahead = ByteRun(), START  # a run of bytes, which is not certain, and the state after it

    def text_of(self, ids: Iterable[int]) -> str:
        """The text of a whole answer, up to its first stop string: that of all pieces of these ids."""
        return self._stops.cut(self._tokenizer.decode(ids))

    def add(self, token: int) -> str | None:
        """Takes the next id. Returns the stop string that the text has with it, or None."""
        return self.read(token)[1]

    def read(self, token: int) -> tuple[str, str | None]:
        """Takes the next id: (the text that no later id can change, up to a stop string; that stop string, or None).
        After a stop string it starts again."""
        piece = self._decoder.add(token)
        if not self._stops.strings:
            return piece, None
        if not piece and (byte := self._tokenizer.byte_of(token)) is not None:
            return self._look_ahead(byte)
        if not (piece or self._tokenizer.has_text(token)):
            return "", None  # it may even stand inside a character
        return self._take(piece)

    @property
    def held_length(self) -> int:
        """How many characters of the answer so far are held back, as its text is without more ids."""
        return len(self._held) + len(self._decoder.held)

    def flush(self) -> str:
        """Returns the text that is still held back, for an answer that ended for another reason, and starts again."""
        _, text, _ = self._try(self._decoder.held)
        self._clear()
        return text

    def _clear(self) -> None:
        """Forgets the answer so far."""
        self._decoder.flush()
        self._run.clear()
        self._state, self._held, self._ahead = START, "", START

    def _try(self, piece: str) -> tuple[int, str, str | None]:
        """What a piece would do: (the state after it, what is held and the piece up to a stop string, that string)."""
        state, match = self._stops.scan(self._state, piece)
        text = self._held + piece
        return (state, text[: len(self._held) + match.begin], match.string) if match else (state, text, None)

    def _take(self, piece: str) -> tuple[str, str | None]:
        """Takes a piece of certain text: (the text that is to be given, the stop string or None)."""
        self._state, text, string = self._try(piece)
        if string is not None:
            self._clear()
            return text, string
        self._run.clear()
        self._ahead = self._state
        given = len(text) - self._stops.lengths[self._state]
        self._held = text[given:]
        return text[:given], None

    def _look_ahead(self, byte: int) -> tuple[str, str | None]:
        """Takes a byte of a run. Its characters are not certain, but a stop string in them ends the answer, and then no
        later byte can change them. As the tokenizer may show them otherwise (it strips the first blank of a text), it
        is asked where they have one."""
        self._ahead, match = self._stops.scan(self._ahead, self._run.add(byte))
        if match is None:
            return "", None
        _, text, string = self._try(self._decoder.held)
        if string is None:
            return "", None
        self._clear()
        return text, string
