"""A zip that is not as torch writes it is refused: no two readers may see two files in it."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import torch_craft as craft
from helpers.torch_craft import Read

from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import BadCheckpoint, Unsupported

GOOD_MEMBERS = craft.members(craft.program(craft.dictionary(("a", craft.TENSOR))))


def altered(index: int, **lies: object) -> bytes:
    members = list(GOOD_MEMBERS)
    members[index] = replace(members[index], **lies)
    return craft.archive(members)


def test_old_file_without_zip64_and_byteorder(read: Read) -> None:
    members = [member for member in GOOD_MEMBERS if "order" not in member.name]
    assert read(craft.archive(members, zip64=False))["a"].shape == (2, 3)


def test_zip64_member(read: Read) -> None:
    wide = struct.pack("<2H4s2H2Q", 0xCAFE, 4, b"----", 1, 16, 24, 24)
    data = altered(2, size=0xFFFFFFFF, extra=wide, local_size=0xFFFFFFFF)
    assert read(data)["a"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_file_over_4_gib(tmp_path: Path) -> None:
    """A member that long, a tensor at its end, and a member behind it; torch writes such with zip64 fields."""
    start = 2**32
    long = craft.tensor((3,), (1,), start, over=craft.storage("torch ByteStorage", "0", start + 3))
    body = craft.dictionary(("long", long), ("behind", craft.tensor(over=craft.storage(key="1"))))
    members = craft.members(craft.program(body), bytes([7, 8, 9]))
    members[2] = replace(members[2], hole=start)
    with (tmp_path / "large.bin").open("wb") as file:
        craft.write_archive(file, [*members, craft.Member("toy/data/1", craft.FLOATS)])
    tensors = read_torch_file(tmp_path / "large.bin")
    (tmp_path / "large.bin").unlink()
    assert tensors["long"].read().tolist() == [7, 8, 9]
    assert tensors["behind"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_elements_need_no_alignment(read: Read) -> None:
    for pad in range(4):
        members = [craft.Member("toy/" + "x" * (1 + pad), b""), *GOOD_MEMBERS]
        assert read(craft.archive(members))["a"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


EVIL = craft.Member("toy/data.pkl", craft.program(craft.call(craft.name("os", "system"), craft.text("true"))))
BAD_ZIPS = {
    "two of a name": craft.archive([EVIL, *GOOD_MEMBERS]),
    "two of a name, other order": craft.archive([*GOOD_MEMBERS, EVIL]),
    "another name inside": altered(0, local_name="toy/cata.pkl"),
    "encrypted": altered(0, flags=0x809),
    "encrypted, locally": altered(0, local_flags=0x809),
    "masked names": altered(0, flags=0x2808),
    "compressed": altered(2, method=8),
    "marked as a folder": altered(2, attributes=0x10),
    "packed size": altered(2, packed=10),
    "another size inside": altered(2, local_size=20),
    "longer than the file": altered(3, size=2**20),
    "over the next member": altered(2, size=60),
    "over another member": altered(2, header=0, name="toy/data.pkl"),
    "header outside": altered(2, header=2**31),
    "zip64 without its field": altered(2, size=0xFFFFFFFF),
    "zip64 field too short": altered(2, size=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 8, 24)),
    "zip64 size of 2**63": altered(2, size=0xFFFFFFFF, extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63)),
    "climbs": altered(2, name="toy/../data/0"),
    "absolute": altered(2, name="/data/0"),
    "of another system": altered(2, name="toy\\data\\0"),
    "a second folder": altered(2, name="joy/data/0"),
    "no storage": craft.archive(GOOD_MEMBERS[:2]),
    "no pickle": craft.archive(GOOD_MEMBERS[1:]),
    "no member": craft.archive([]),
    "other byte order": altered(1, data=b"middle"),
    "count too small": craft.archive(GOOD_MEMBERS, count=3),
    "count too large": craft.archive(GOOD_MEMBERS, count=5),
    "count of 65535": craft.archive(GOOD_MEMBERS, zip64=False, count=65535),
    "zip64 says otherwise": craft.archive(GOOD_MEMBERS, shift=1),
    "zip64 start of 2**62": craft.archive(GOOD_MEMBERS, shift=2**62),
    "bytes after": craft.PLAIN + b"\n",
    "bytes before": b"\n" + craft.PLAIN,
    "a zip in front": craft.PLAIN + craft.PLAIN,
    "another zip in front": craft.archive([EVIL]) + craft.PLAIN,
    "comment": craft.PLAIN[:-2] + b"\1\0!",
    "only an end": b"PK\5\6" + bytes(18),
    "only a start": b"PK\3\4",
    "half": craft.PLAIN[: len(craft.PLAIN) // 2],
}


@pytest.mark.parametrize("lie", BAD_ZIPS)
def test_bad_zips(read: Read, lie: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read(BAD_ZIPS[lie])


def test_torch_script_is_named(read: Read) -> None:
    script = craft.Member("toy/code/__torch__.py", b"", method=8)
    with pytest.raises(Unsupported, match=r"toy\.bin: a TorchScript archive"):
        read(craft.archive([*GOOD_MEMBERS, script]))


def test_big_endian_is_named(read: Read) -> None:
    with pytest.raises(Unsupported, match=r"toy\.bin: .*'big'"):
        read(altered(1, data=b"big"))
