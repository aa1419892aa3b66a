"""The container `torch.save` wrote before 1.6, read in place: pickles back to back, then the storages' bytes.

Format: torch/serialization.py (`_legacy_save`). The first two pickles are a magic number and a version, the third
says how the writer's machine stored numbers, the fourth is the object, the fifth the sorted keys of its storages.
Then comes each storage in that order: an int64 count of elements and the elements. So where a storage lies is
known only after the pickle that refers to it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from elm_mlx.convert.torch_file.pickle import interpret, refusal
from elm_mlx.convert.torch_file.tensors import Storage, Vocabulary
from elm_mlx.errors import BadCheckpoint, unsupported

LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # LONG1 0x1950a86a20f9469cfc6c
HEAD = b"\x80\x02" + LEGACY_MAGIC + b".\x80\x02M\xe9\x03."  # its pickle, and that of version 1001
COUNT = struct.Struct("<q")


def read_legacy(file: memoryview, words: Vocabulary) -> object:
    """The saved object of a whole file, with the storages it refers to placed in it.

    Raises Unsupported for a big-endian writer, and BadCheckpoint where the keys, the counts and the file's end
    do not fit what the object says.
    """
    if file[: len(HEAD)] != HEAD:
        raise BadCheckpoint("does not start as torch.save starts a file of version 1001, protocol 2; save it again.")
    info, start = interpret(file, len(HEAD), _nothing, _nothing)
    _require_little_endian(info)
    ids = Identities(words)
    value, start = interpret(file, start, words.look_up, ids.storage)
    keys, start = interpret(file, start, _nothing, _nothing)
    if keys != sorted(words.storages):
        raise BadCheckpoint("lists other storages than its tensors lie in; download it again.")
    _place(file, start, words.storages)
    ids.place_parts()
    return value


def _nothing(*what: object) -> object:
    raise refusal("has a name or a storage where a plain value belongs")


def _require_little_endian(info: object) -> None:
    little = info.get("little_endian") if isinstance(info, dict) else None
    if little is False:
        raise unsupported("the byte order", "big", ["little"])
    if little is not True:
        raise BadCheckpoint("does not say its byte order, as torch.save does; download it again.")


def _place(file: memoryview, start: int, storages: dict[str, Storage]) -> None:
    """Find each storage's bytes: they lie in the order of the keys, and the last ends with the file."""
    for key, storage in sorted(storages.items()):
        (count,) = COUNT.unpack_from(file, start)
        data = start + COUNT.size
        start = data + storage.size
        if count != storage.length:
            raise BadCheckpoint(f"storage {key[:80]!r} is not as long as its tensors say; download it again.")
        storage.data = file[data:start]
    if start != len(file):
        raise BadCheckpoint("its last storage does not end with the file; download it again.")


@dataclass(frozen=True)
class Part:
    """A storage that is a part of another, from `offset` on, in elements; only early versions of torch wrote such."""

    storage: Storage
    whole: Storage
    offset: int

    def place(self) -> None:
        """Cut it out of the whole, which has been placed."""
        first = self.offset * self.whole.width
        self.storage.data = self.whole.data[first : first + self.storage.size]


class Identities:
    """What persistent ids mean: the storages of `words`, and parts of them."""

    def __init__(self, words: Vocabulary) -> None:
        self.words = words
        self.parts: dict[str, Part] = {}

    def storage(self, identity: object) -> Storage:
        """The storage meant by `("storage", class, key, device, length, part)`, or its part where that is not None."""
        if type(identity) is not tuple or len(identity) != 6:
            raise refusal("refers to something that is no storage")
        whole = self.words.storage(identity[:5])
        return whole if identity[5] is None else self.part(whole, identity[5])

    def part(self, whole: Storage, view: object) -> Storage:
        """The part meant by `(key, offset, length)`, in elements of the whole."""
        if type(view) is not tuple or [type(entry) for entry in view] != [str, int, int]:
            raise refusal("refers to something that is no part of a storage")
        key, offset, length = view
        if not 0 <= offset <= offset + length <= whole.length:
            raise BadCheckpoint(f"storage {key[:80]!r} reaches out of the one it is a part of; download it again.")
        part = self.parts.setdefault(key, Part(Storage(whole.element, length), whole, offset))
        if part.whole is not whole or (part.offset, part.storage.length) != (offset, length):
            raise refusal(f"describes storage {key[:80]!r} in two ways")
        return part.storage

    def place_parts(self) -> None:
        """Place the parts, once the storages are."""
        if self.parts.keys() & self.words.storages.keys():
            raise refusal("describes a storage as whole and as a part")
        for part in self.parts.values():
            part.place()
