"""Chunks of bytes to lines, whatever their length, in bounded memory."""

from __future__ import annotations

from elm_mlx.sidecar.message import MAX_LINE


class Lines:
    """The lines of a stream whose chunks are fed to it. Of a line it holds at most `longest` bytes."""

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._longest, self._held, self._is_too_long = longest, bytearray(), False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """The lines that end in a chunk, without their newlines and without empty ones; None for one that is too long,
        which is passed over."""
        *ended, rest = chunk.split(b"\n")
        lines = [self._end(part) for part in ended]
        self._hold(rest)
        return [line for line in lines if line is None or line.strip()]

    def _hold(self, part: bytes) -> None:
        """Adds a part to the line that has begun."""
        self._is_too_long = self._is_too_long or len(self._held) + len(part) > self._longest
        if self._is_too_long:
            self._held.clear()
        else:
            self._held += part

    def _end(self, part: bytes) -> bytes | None:
        """The line that a part ends."""
        self._hold(part)
        line = None if self._is_too_long else bytes(self._held)
        self._held.clear()
        self._is_too_long = False
        return line
