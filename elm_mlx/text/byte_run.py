"""The characters of a run of bytes that come one by one."""

from __future__ import annotations

import codecs


class ByteRun:
    """Turns bytes into the characters that decoding would show if the run ended here. A tokenizer shows a run of byte
    tokens as characters only where all of it is valid UTF-8, so after one wrong byte there are none."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_valid = True

    def add(self, byte: int) -> str:
        """Takes the next byte; returns the character that is whole with it, else nothing."""
        if not self._is_valid:
            return ""
        try:
            return self._decoder.decode(bytes([byte]))
        except UnicodeDecodeError:
            self._is_valid = False
            return ""

    def clear(self) -> None:
        """Begins a new run."""
        self._decoder.reset()
        self._is_valid = True
