"""Lists the weights that are written, so that the next run can continue a killed one: a line for each, in file order.

    FINGERPRINT       of all that the bytes come from: where it differs, everything is converted again
    CRC32 NAME        of the bytes of a weight, appended once they are in its file

The last line may be torn. No line is trusted before its bytes are read back: after a power cut they may be older. The
checksum finds damage, not forgery: a sha256 would make an unquantized conversion take half as long again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import BinaryIO

READ_BYTES = 2**20


class Journal:
    """The journal in `file`, which is open to read and to append, and locked by this run."""

    def __init__(self, file: BinaryIO, fingerprint: str) -> None:
        self._file, self._first = file, fingerprint.encode() + b"\n"
        file.seek(0)
        first, *lines = file.read().splitlines(keepends=True) or [b""]
        self._lines = [line for line in lines if line.endswith(b"\n")]
        if first != self._first:
            self._lines = []
            file.truncate(0)
            file.write(self._first)

    def claims(self) -> list[tuple[str, str]]:
        """(checksum, name) of the weights written, in the order of writing."""
        pairs = (line.decode(errors="replace").strip().partition(" ") for line in self._lines)
        return [(found, name) for found, _, name in pairs]

    def keep_first(self, count: int) -> None:
        """Forgets all but the first `count` weights."""
        self._file.truncate(len(self._first) + sum(map(len, self._lines[:count])))

    def add(self, name: str, checksum: str) -> None:
        """Notes that one more weight is in its file."""
        self._file.write(f"{checksum} {name}\n".encode())
        self._file.flush()


def checksum(chunks: Iterable[bytes | memoryview]) -> str:
    """CRC-32 of all the chunks, one after the other, in hexadecimal."""
    found = 0
    for chunk in chunks:
        found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def read_checksum(file: BinaryIO, nbytes: int) -> str:
    """Reads the next `nbytes` of a file and returns their checksum."""
    return checksum(file.read(min(READ_BYTES, nbytes - at)) for at in range(0, nbytes, READ_BYTES))
