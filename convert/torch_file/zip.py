"""The zip container that `torch.save` writes, read in place: member name -> a view of the member's bytes.

Format: PKWARE's APPNOTE.TXT. torch (caffe2/serialize/inline_container.cc, over miniz) uses little of it:
every member stored, one folder around them all, no comment, sizes and checksums zero in the local headers,
and a zip64 end record always. One zip can be made to show two readers two different contents; so a zip whose
records contradict each other is refused, and only one reading is left. Checksums are not checked: torch can
be told to leave them out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from elm_mlx.errors import BadCheckpoint, Unsupported

LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\3\4", b"PK\1\2", b"PK\5\6"
END64_MARK, LOCATOR_MARK = b"PK\6\6", b"PK\6\7"

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")

ALL_ONES = 0xFFFFFFFF  # a 32-bit field that says "see the zip64 record"
ZIP64_FIELD = 1  # the id of that record among a member's extra fields
PLAIN_FLAGS = 0x0808  # sizes follow the data; the name is UTF-8. Every other flag changes what is read.
FOLDER = 0x10  # an attribute of members that torch itself does not read

# torch writes a member a storage and a dozen others, about 100 bytes of directory each; these limits bound the time.
MAX_MEMBERS = 2**16
MAX_DIRECTORY = 2**24


@dataclass(frozen=True)
class ZipMember:
    """A member as the central directory describes it; `header` (where its local header starts) and `size` in bytes."""

    name: bytes
    plain: bool  # neither compressed, encrypted, on another disk nor marked as a folder
    flags: int
    header: int
    size: int


def read_members(file: memoryview) -> dict[str, memoryview]:
    """The members by their names below the archive's one folder, in the order of their bytes.

    Raises BadCheckpoint for whatever torch does not write: compression, encryption, a second member of the
    same name, members that overlap, a name that leads out of the folder, two records that disagree; and
    Unsupported for a TorchScript archive.
    """
    members: dict[str, memoryview] = {}
    start, end, count = _directory(file)
    listed = list(_zip_members(file, start, end, count))
    _refuse_script(listed)
    free = 0  # the first byte that no member has claimed
    for member in sorted(listed, key=lambda member: member.header):
        data = _data_start(file, member)
        if member.header < free or data + member.size > start:
            raise zip_refusal(f"zip member {member.name[:80]!r} overlaps another or reaches out of the file")
        free = data + member.size
        name = _checked_name(member.name)
        if name in members:
            raise zip_refusal(f"two zip members are named {name[:80]!r}")
        members[name] = file[data:free]
    return _without_folder(members)


def _directory(file: memoryview) -> tuple[int, int, int]:
    """Start, end and number of entries of the central directory, from the records at the file's end."""
    end = at = len(file) - END.size
    _, *numbers, comment = _record(file, END, END_MARK, at)
    if file[max(0, at - LOCATOR.size) : at][:4] == LOCATOR_MARK:
        end = at - LOCATOR.size - END64.size
        located = _record(file, LOCATOR, LOCATOR_MARK, at - LOCATOR.size)[2]
        _, length, _, _, *wide = _record(file, END64, END64_MARK, end)
        if located != end or length != END64.size - 12 or not _repeats(numbers, wide):
            raise zip_refusal("the two end records of the zip disagree")
        numbers = wide
    disk, first_disk, here, count, size, start = numbers
    if disk or first_disk or comment or here != count or start + size != end:
        raise zip_refusal("the end record of the zip does not fit the file")
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise zip_refusal("the zip has more members than a file of tensors")
    return start, end, count


def _repeats(narrow: list[int], wide: list[int]) -> bool:
    """Whether the 16- and 32-bit fields repeat the zip64 ones, or defer to them by being all ones."""
    deferring = (0xFFFF,) * 4 + (ALL_ONES,) * 2
    return all(n in (w, ones) for n, w, ones in zip(narrow, wide, deferring, strict=True))


def _zip_members(file: memoryview, start: int, end: int, count: int) -> Iterator[ZipMember]:
    at = start
    for _ in range(count):
        fields = _record(file, CENTRAL, CENTRAL_MARK, at)
        flags, method, packed, size, name, extra, comment, disk, attributes, header = (
            fields[i] for i in (3, 4, 8, 9, 10, 11, 12, 13, 15, 16)
        )
        at += CENTRAL.size
        raw = bytes(file[at : at + name])
        size, packed, header = _widened(file[at + name : at + name + extra], size, packed, header)
        odd = method or packed != size or flags & ~PLAIN_FLAGS or disk or attributes & FOLDER
        yield ZipMember(raw, not odd, flags, header, size)
        at += name + extra + comment
    if at != end:
        raise zip_refusal("the central directory of the zip has another length than it says")


def _widened(extra: memoryview, *values: int) -> Iterator[int]:
    """The values, each that is all ones replaced by the next 64-bit one of the zip64 extra field."""
    at = _zip64_field(extra) if ALL_ONES in values else 0
    for value in values:
        if value == ALL_ONES:
            (value,) = struct.unpack_from("<Q", extra, at)
            at += 8
        yield value


def _zip64_field(extra: memoryview) -> int:
    """Where among the extra fields (id, length, bytes each) the content of the zip64 one starts."""
    at, (field, length) = 0, struct.unpack_from("<2H", extra)
    while field != ZIP64_FIELD:
        at += 4 + length
        field, length = struct.unpack_from("<2H", extra, at)
    return at + 4


def _refuse_script(members: list[ZipMember]) -> None:
    """Refuses a zip of torch.jit.save: it holds source (compressed) that torch compiles and runs."""
    inner = [member.name.partition(b"/")[2] for member in members]
    if b"constants.pkl" in inner or any(name.startswith(b"code/") for name in inner):
        raise Unsupported("a TorchScript archive, which is a program; save the model's state_dict() instead.")


def _data_start(file: memoryview, member: ZipMember) -> int:
    """Where the member's bytes start: only the local header gives the padding that aligns them."""
    if not member.plain:
        raise zip_refusal(f"zip member {member.name[:80]!r} is compressed, encrypted, split or a folder")
    header = _record(file, LOCAL, LOCAL_MARK, member.header)
    _, _, flags, method, _, _, _, packed, size, name, extra = header
    at = member.header + LOCAL.size
    sizes_fit = {packed, size} <= {0, ALL_ONES, member.size}
    if method or flags != member.flags or not sizes_fit or file[at : at + name] != member.name:
        raise zip_refusal(f"zip member {member.name[:80]!r} is described in two ways")
    return at + name + extra


def _record(file: memoryview, layout: struct.Struct, mark: bytes, at: int) -> tuple[int, ...]:
    if not 0 <= at <= len(file) - layout.size or file[at : at + 4] != mark:
        raise zip_refusal("the zip is cut short, or has bytes after its end")
    return layout.unpack_from(file, at)


def _checked_name(raw: bytes) -> str:
    name = raw.decode()
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise zip_refusal(f"zip member {name[:80]!r} has a name that is no path below a folder")
    return name


def _without_folder(members: dict[str, memoryview]) -> dict[str, memoryview]:
    """Removes the one folder around the members, which torch names after the file or `archive`."""
    if len({name.partition("/")[0] for name in members}) != 1:
        raise zip_refusal("the zip is not one folder")
    return {name.partition("/")[2]: data for name, data in members.items()}


def zip_refusal(what: str) -> BadCheckpoint:
    return BadCheckpoint(f"{what}, which torch.save never makes; download the file again.")
