"""Which weights are written, so that a killed run is gone on with: a line for each, in the order of the files.

    FINGERPRINT       of all that the bytes come from: under another one, everything begins anew
    CRC32 NAME        of the bytes of a weight, appended once they are in its file

The last line may be torn. None is believed before its bytes are read back: after a power cut they may be older. This
tells whole from torn, not friend from foe: a sha256 instead would make an unquantized conversion half as long again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import BinaryIO

CHUNK = 2**20


class Journal:
    """`file` is open to read and to append, and nobody else's."""

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
        """(checksum, name) of the weights written, in their order."""
        pairs = (line.decode(errors="replace").strip().partition(" ") for line in self._lines)
        return [(found, name) for found, _, name in pairs]

    def keep(self, count: int) -> None:
        """Forgets all but the first `count` weights."""
        self._file.truncate(len(self._first) + sum(map(len, self._lines[:count])))

    def add(self, name: str, checksum: str) -> None:
        """One more weight is in its file."""
        self._file.write(f"{checksum} {name}\n".encode())
        self._file.flush()


def checksum(chunks: Iterable[bytes | memoryview]) -> str:
    """CRC-32 of the chunks one after the other."""
    found = 0
    for chunk in chunks:
        found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def read_checksum(file: BinaryIO, nbytes: int) -> str:
    """That of the next bytes of a file."""
    return checksum(file.read(min(CHUNK, nbytes - at)) for at in range(0, nbytes, CHUNK))
