"""The container that `torch.save` wrote before 1.6, read in place: pickles back to back, then the storages' bytes.

Format: torch/serialization.py (`_legacy_save`). The first two pickles are a magic number and a version, the third
says how the writer's machine stored numbers, the fourth is the object, the fifth the sorted keys of its storages.
Then comes each storage in that order: an int64 count of elements and the elements. So where a storage lies is
known only after the pickle that refers to it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from elm_mlx.convert.torch_file.pickle import interpret, pickle_refusal
from elm_mlx.convert.torch_file.tensors import Storage, TorchNames
from elm_mlx.errors import BadCheckpoint, unsupported

LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # LONG1 0x1950a86a20f9469cfc6c
FILE_START = b"\x80\x02" + LEGACY_MAGIC + b".\x80\x02M\xe9\x03."  # the magic number's pickle, and that of version 1001
ELEMENT_COUNT = struct.Struct("<q")


def read_legacy(file: memoryview, names: TorchNames) -> object:
    """Reads the saved object of a whole file, and finds the bytes of each storage that it refers to.

    Raises Unsupported for a big-endian writer, and BadCheckpoint where the keys, the counts and the file's end
    do not fit what the object says.
    """
    if file[: len(FILE_START)] != FILE_START:
        raise BadCheckpoint("does not start as torch.save starts a file of version 1001, protocol 2; save it again.")
    info, start = interpret(file, len(FILE_START), _refuse, _refuse)
    _require_little_endian(info)
    ids = PersistentIds(names)
    value, start = interpret(file, start, names.look_up, ids.storage)
    keys, start = interpret(file, start, _refuse, _refuse)
    if keys != sorted(names.storages):
        raise BadCheckpoint("lists other storages than its tensors lie in; download it again.")
    _place_storages(file, start, names.storages)
    ids.place_parts()
    return value


def _refuse(*what: object) -> object:
    raise pickle_refusal("has a name or a storage where a plain value belongs")


def _require_little_endian(info: object) -> None:
    little = info.get("little_endian") if isinstance(info, dict) else None
    if little is False:
        raise unsupported("the byte order", "big", ["little"])
    if little is not True:
        raise BadCheckpoint("does not say its byte order, as torch.save does; download it again.")


def _place_storages(file: memoryview, start: int, storages: dict[str, Storage]) -> None:
    """Finds each storage's bytes: they lie in the order of the keys, and the last ones end with the file."""
    for key, storage in sorted(storages.items()):
        (count,) = ELEMENT_COUNT.unpack_from(file, start)
        data = start + ELEMENT_COUNT.size
        start = data + storage.size
        if count != storage.length:
            raise BadCheckpoint(f"storage {key[:80]!r} is not as long as its tensors say; download it again.")
        storage.data = file[data:start]
    if start != len(file):
        raise BadCheckpoint("its last storage does not end with the file; download it again.")


@dataclass(frozen=True)
class StoragePart:
    """A storage that is a part of `whole`, from `offset` on, in elements; only early versions of torch wrote such."""

    storage: Storage
    whole: Storage
    offset: int

    def place(self) -> None:
        """Cuts the bytes of the part out of those of the whole, which have been found."""
        first = self.offset * self.whole.width
        self.storage.data = self.whole.data[first : first + self.storage.size]


class PersistentIds:
    """What persistent ids mean: the storages of `names`, and parts of them."""

    def __init__(self, names: TorchNames) -> None:
        self.names = names
        self.parts: dict[str, StoragePart] = {}

    def storage(self, identity: object) -> Storage:
        """The storage meant by `("storage", class, key, device, length, part)`, or its part if that is given."""
        if type(identity) is not tuple or len(identity) != 6:
            raise pickle_refusal("refers to something that is no storage")
        whole = self.names.storage(identity[:5])
        return whole if identity[5] is None else self.part(whole, identity[5])

    def part(self, whole: Storage, view: object) -> Storage:
        """The part meant by `(key, offset, length)`, in elements of the whole."""
        if type(view) is not tuple or [type(entry) for entry in view] != [str, int, int]:
            raise pickle_refusal("refers to something that is no part of a storage")
        key, offset, length = view
        if not 0 <= offset <= offset + length <= whole.length:
            raise BadCheckpoint(f"storage {key[:80]!r} reaches out of the one it is a part of; download it again.")
        part = self.parts.setdefault(key, StoragePart(Storage(whole.element, length), whole, offset))
        if part.whole is not whole or (part.offset, part.storage.length) != (offset, length):
            raise pickle_refusal(f"describes storage {key[:80]!r} in two ways")
        return part.storage

    def place_parts(self) -> None:
        """Finds the bytes of the parts, once those of the storages are found."""
        if self.parts.keys() & self.names.storages.keys():
            raise pickle_refusal("describes a storage as whole and as a part")
        for part in self.parts.values():
            part.place()
