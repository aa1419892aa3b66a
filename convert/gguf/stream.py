"""The bytes at the beginning of a GGUF file, read value by value: nothing is believed before it is known to fit.

Format: ggml-org/ggml docs/gguf.md. All numbers are little-endian; a string is its length in eight bytes, then UTF-8; an
array is a type, a count in eight bytes, then the values.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from elm_mlx.errors import BadCheckpoint

MAX_HEADER_BYTES = 100_000_000  # the largest vocabularies, with their merges, take 30 MB
MAX_STRINGS = 2**21  # in all arrays; the largest vocabularies have 256 thousand tokens and half a million merges
MAX_NAME = 512  # bytes of a key or a tensor's name; the format allows 65,535 and 64
BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", BOOL: "u1", 10: "<u8", 11: "<i8",
           12: "<f8"}  # fmt: skip
LENGTH = struct.Struct("<Q")


class Stream:
    """Reads values of the header of the file `where`, whose bytes are `data`, one after another.

    Every method raises BadCheckpoint for a value that does not lie in the file, or is larger than any model's.
    """

    def __init__(self, data: memoryview, where: object) -> None:
        self.data, self.where, self.position = data[:MAX_HEADER_BYTES], where, 0
        self.strings_left = MAX_STRINGS  # each takes five times its bytes in memory

    def wrong(self, why: str) -> BadCheckpoint:
        """The error for a header that cannot be right; `why` is a clause."""
        return BadCheckpoint(f"{self.where} is not a GGUF file, or is damaged: {why}. Fetch it again.")

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        end = self.position + count
        if end > len(self.data):
            cut = len(self.data) == MAX_HEADER_BYTES
            raise self.wrong(f"its header has over {MAX_HEADER_BYTES:,} bytes" if cut else "its header is cut short")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, kind: str) -> Any:
        """The next number, of a NumPy type, as Python's own; of float32 the shortest decimal that it is nearest to."""
        found = np.frombuffer(self.take(np.dtype(kind).itemsize), kind)[0]
        return float(str(found)) if kind == "<f4" else found.item()

    def length(self) -> int:
        """The next eight bytes, as a length or a count."""
        found: int = LENGTH.unpack(self.take(8))[0]
        return found

    def text(self, limit: int = MAX_HEADER_BYTES) -> str:
        """The next string, of up to `limit` bytes."""
        if (length := self.length()) > limit:
            raise self.wrong(f"a string in its header has {length:,} bytes, where {limit:,} are the most")
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong("a string in its header is not UTF-8") from error

    def value(self) -> Any:
        """The next value, with its type before it: a Python number, truth value or string, an array of numbers as
        NumPy's, a list of strings."""
        kind = self.number("<u4")
        return self.array() if kind == ARRAY else self.of_kind(kind)

    def of_kind(self, kind: int) -> Any:
        """The next value of a type that is no array."""
        if kind == STRING:
            return self.text()
        if kind not in NUMBERS:
            raise self.wrong(f"a value in its header has the unknown type {kind}")
        number = self.number(NUMBERS[kind])
        if kind != BOOL:
            return number
        if number > 1:
            raise self.wrong(f"a truth value in its header is {number}")
        return bool(number)

    def array(self) -> np.ndarray | list[str]:
        """The next array, after its type. Arrays of arrays, which no model has, are refused."""
        kind, count = self.number("<u4"), self.length()
        if kind == STRING:
            return self.strings(count)
        if kind not in NUMBERS:
            raise self.wrong(f"an array in its header has values of the type {kind}")
        element = np.dtype(NUMBERS[kind])
        # multiplied in Python, where no product is too large
        return np.frombuffer(self.take(count * element.itemsize), element).copy()

    def strings(self, count: int) -> list[str]:
        """The next `count` strings."""
        if count > min(self.strings_left, (len(self.data) - self.position) // LENGTH.size):
            raise self.wrong(f"a list in its header has {count:,} strings, more than fit")
        self.strings_left -= count
        return [self.text() for _ in range(count)]
