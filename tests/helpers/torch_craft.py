"""PyTorch files made by hand, byte by byte, so that a test can falsify any one field."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from elm_mlx.convert.tensor import LazyTensor

Read = Callable[[bytes], dict[str, LazyTensor]]  # writes a file's bytes and reads its tensors
FLOATS = struct.pack("<6f", *range(6))
ALL_ONES = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """A zip member; a field that is None is written as it truly is."""

    name: str
    data: bytes
    flags: int = 0x808
    local_flags: int | None = None
    local_name: str | None = None
    local_size: int = 0  # torch leaves it to the central directory
    method: int = 0
    size: int | None = None
    packed: int | None = None
    header: int | None = None
    extra: bytes = b""  # of the central directory
    attributes: int = 0
    hole: int = 0  # bytes before the data that are never written: zeros that take no disk


def local_record(member: Member) -> bytes:
    flags = member.flags if member.local_flags is None else member.local_flags
    name = (member.local_name or member.name).encode()
    sizes = (member.local_size, member.local_size)
    padding = b"FB" + struct.pack("<H", 3) + b"ZZZ"
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 0, flags, member.method, 0, 0, 0, *sizes, len(name), len(padding))
    return head + name + padding


def central_record(member: Member, header: int) -> bytes:
    header = header if member.header is None else member.header
    size = member.hole + len(member.data) if member.size is None else member.size
    packed = size if member.packed is None else member.packed
    name, wrong_crc = member.name.encode(), 0xBAD
    wide = [value for value in (size, packed, header) if value > ALL_ONES]
    extra = member.extra + (struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b"")
    size, packed, header = (min(value, ALL_ONES) for value in (size, packed, header))
    numbers = (0, 0, member.flags, member.method, 0, 0, wrong_crc, packed, size, len(name), len(extra))
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *numbers, 0, 0, 0, member.attributes, header) + name + extra


def write_archive(
    file: BinaryIO, members: Sequence[Member], *, zip64: bool = True, count: int | None = None, shift: int = 0
) -> None:
    """A zip of the members; `count` and `shift` falsify the number of members and the zip64 start."""
    directory = b""
    for member in members:
        directory += central_record(member, file.tell())
        file.write(local_record(member))
        file.seek(member.hole, io.SEEK_CUR)
        file.write(member.data)
    count = len(members) if count is None else count
    start, size = file.tell(), len(directory)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, min(start, ALL_ONES), 0)
    if zip64:
        numbers = (44, 0, 0, 0, 0, count, count, size, start + shift)
        end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", *numbers)
        end = end64 + struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1) + end
    file.write(directory + end)


def archive(members: Sequence[Member], *, zip64: bool = True, count: int | None = None, shift: int = 0) -> bytes:
    """The bytes of a zip of the members, falsified as in `write_archive`."""
    file = io.BytesIO()
    write_archive(file, members, zip64=zip64, count=count, shift=shift)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def integers(values: Sequence[int]) -> bytes:
    return several(*map(integer, values))


def several(*items: bytes) -> bytes:
    """The opcodes of a tuple."""
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + several(*arguments) + b"R"


ORDERED = call(name("collections", "OrderedDict"))


def storage(cls: str = "torch FloatStorage", key: str = "0", length: int = 6, *part: bytes) -> bytes:
    """A storage by its persistent id; `part` is the id's sixth entry in the legacy format, where that is not None."""
    return several(text("storage"), name(*cls.split()), text(key), text("cpu"), integer(length), *part) + b"Q"


STORAGE = storage()


def tensor(
    shape: Sequence[int] = (2, 3), stride: Sequence[int] = (3, 1), offset: int = 0, over: bytes = STORAGE
) -> bytes:
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, over, integer(offset), integers(shape), integers(stride), b"\x89", ORDERED)


TENSOR = tensor()


def dictionary(*pairs: tuple[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def members(code: bytes, data: bytes = FLOATS) -> list[Member]:
    """The members that torch puts in the zip for one storage of six floats."""
    return [
        Member("toy/data.pkl", code),
        Member("toy/byteorder", b"little"),
        Member("toy/data/0", data),
        Member("toy/version", b"3\n"),
    ]


def torch_file(body: bytes) -> bytes:
    """A file whose pickle is `body`, over one storage of six floats."""
    return archive(members(program(body)))


LEGACY_HEAD = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e")  # magic number, version 1001
SIZES = dictionary(("short", integer(2)), ("int", integer(4)), ("long", integer(4)))
INFO = dictionary(("protocol_version", integer(1001)), ("little_endian", b"\x88"), ("type_sizes", SIZES))


def listed(*keys: str) -> bytes:
    return b"](" + b"".join(map(text, keys)) + b"e"


def counted(data: bytes = FLOATS, count: int = 6) -> bytes:
    return struct.pack("<q", count) + data


def legacy_file(body: bytes, keys: bytes = listed("0"), data: bytes = counted(), info: bytes = INFO) -> bytes:
    """What torch wrote before 1.6: five pickles, the fourth `body`, and the storages."""
    return LEGACY_HEAD + b"".join(map(program, (info, body, keys))) + data


def legacy_twin(body: bytes) -> bytes:
    """`torch_file(body)` in the format before 1.6, where a storage's identity has a sixth entry."""
    body = body.replace(b"tQ", b"NtQ")
    return legacy_file(body) if b"tQ" in body else legacy_file(body, listed(), b"")


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"zip": torch_file, "legacy": legacy_twin}
PLAIN = torch_file(dictionary(("weight", TENSOR)))
PLAIN_LEGACY = legacy_twin(dictionary(("weight", TENSOR)))
