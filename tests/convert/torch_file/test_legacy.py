"""The format before torch 1.6 is read in place, and refused wherever its parts do not fit together."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from helpers import torch_craft as craft
from helpers.torch_craft import Read

from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import BadCheckpoint, Unsupported

HUGE = 2**62


def storage(cls: str = "torch FloatStorage", key: str = "0", length: int = 6) -> bytes:
    return craft.storage(cls, key, length, b"N")


def part(key: str = "9", offset: int = 1, length: int = 4) -> bytes:
    """A part of the storage of six floats."""
    return described(craft.several(craft.text(key), craft.integer(offset), craft.integer(length)))


def described(part: bytes) -> bytes:
    return craft.storage("torch FloatStorage", "0", 6, part)


def over(*storages: bytes) -> bytes:
    """A state dict of one tensor of one element for each storage."""
    return craft.dictionary(*((str(n), craft.tensor((1,), (1,), over=one)) for n, one in enumerate(storages)))


PLAIN = over(storage())


def test_every_alignment(read: Read) -> None:
    for length in range(1, 9):
        name = "a" * length
        body = craft.dictionary((name, craft.tensor(over=storage())))
        assert read(craft.legacy_file(body))[name].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_storages_lie_in_the_order_of_their_keys(read: Read) -> None:
    """As strings; and counted in elements, or in bytes where their class does not say the type."""
    view = (craft.integer(0), craft.integers((2,)), craft.integers((1,)), b"\x89", craft.ORDERED)
    untyped = storage("torch.storage UntypedStorage", "10", 4)
    rebuild = craft.name("torch._utils", "_rebuild_tensor_v3")
    body = craft.dictionary(
        ("bfloat16", craft.tensor((3,), (1,), over=storage("torch BFloat16Storage", "9", 3))),
        ("uint16", craft.call(rebuild, untyped, *view, craft.name("torch", "uint16"))),
    )
    data = craft.counted(b"\1\0\2\0", 4) + craft.counted(b"\x80\x3f\0\x40\x40\x40", 3)
    tensors = read(craft.legacy_file(body, craft.listed("10", "9"), data))
    assert {name: tensor.read().tolist() for name, tensor in tensors.items()} == {
        "bfloat16": [1, 2, 3],
        "uint16": [1, 2],
    }


def test_parts_of_storages(read: Read) -> None:
    body = craft.dictionary(
        ("part", craft.tensor((2,), (2,), 1, over=part())),
        ("again", craft.tensor((4,), (1,), over=part())),
        ("whole", craft.tensor((6,), (1,), over=storage())),
        ("empty", craft.tensor((0,), (1,), over=part("8", 6, 0))),
    )
    tensors = read(craft.legacy_file(body))
    assert {name: tensor.read().tolist() for name, tensor in tensors.items()} == {
        "part": [2, 4],
        "again": [1, 2, 3, 4],
        "whole": [0, 1, 2, 3, 4, 5],
        "empty": [],
    }


def test_no_storage_at_all_is_no_state_dict(read: Read) -> None:
    with pytest.raises(Unsupported, match="holds 'step' and no tensors"):
        read(craft.legacy_file(craft.dictionary(("step", b"K\3")), craft.listed(), b""))


def test_a_file_over_4_gib(tmp_path: Path) -> None:
    start = 2**32
    long = craft.tensor((3,), (1,), start, over=storage("torch ByteStorage", "0", start + 3))
    body = craft.dictionary(("long", long), ("behind", craft.tensor(over=storage(key="1"))))
    with (tmp_path / "large.bin").open("wb") as file:
        file.write(craft.legacy_file(body, craft.listed("0", "1"), craft.counted(b"", start + 3)))
        file.seek(start, 1)
        file.write(bytes([7, 8, 9]) + craft.counted())
    tensors = read_torch_file(tmp_path / "large.bin")
    (tmp_path / "large.bin").unlink()
    assert tensors["long"].read().tolist() == [7, 8, 9]
    assert tensors["behind"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_big_endian_is_named(read: Read) -> None:
    with pytest.raises(Unsupported, match=r"toy\.bin: .*'big'"):
        read(craft.legacy_file(PLAIN, info=craft.dictionary(("little_endian", b"\x89"))))


TWO = over(storage(key="1"), storage(key="2"))
EVIL = craft.call(craft.name("os", "system"), craft.text("true"))
BAD_FILES = {
    "count too small": craft.legacy_file(PLAIN, data=craft.counted(count=5)),
    "count too large": craft.legacy_file(PLAIN, data=craft.counted(count=7)),
    "count of bytes": craft.legacy_file(PLAIN, data=craft.counted(count=24)),
    "negative count": craft.legacy_file(PLAIN, data=craft.counted(count=-6)),
    "count and length of 2**62": craft.legacy_file(over(storage(length=HUGE)), data=craft.counted(count=HUGE)),
    "length past the file": craft.legacy_file(over(storage(length=7)), data=craft.counted(count=7)),
    "length of 2**62": craft.legacy_file(over(storage(length=HUGE))),
    "storage cut short": craft.legacy_file(PLAIN)[:-1],
    "no storage": craft.legacy_file(PLAIN, data=b""),
    "half a count": craft.legacy_file(PLAIN, data=bytes(4)),
    "a byte after": craft.legacy_file(PLAIN) + b"\0",
    "a storage after": craft.legacy_file(PLAIN) + craft.counted(),
    "a zip after": craft.legacy_file(PLAIN) + craft.PLAIN,
    "a file after": craft.legacy_file(PLAIN) * 2,
    "no keys": craft.legacy_file(PLAIN, craft.listed()),
    "another key": craft.legacy_file(PLAIN, craft.listed("1")),
    "a key too many": craft.legacy_file(PLAIN, craft.listed("0", "1"), craft.counted() * 2),
    "a key too few": craft.legacy_file(TWO, craft.listed("1"), craft.counted()),
    "a key twice": craft.legacy_file(PLAIN, craft.listed("0", "0"), craft.counted() * 2),
    "keys unsorted": craft.legacy_file(TWO, craft.listed("2", "1"), craft.counted() * 2),
    "keys in a tuple": craft.legacy_file(PLAIN, craft.several(craft.text("0"))),
    "keys as a text": craft.legacy_file(PLAIN, craft.text("0")),
    "a key that is a number": craft.legacy_file(PLAIN, b"](K\0e"),
    "a key of another pickle": craft.legacy_file(over(storage(key="0")) + b"q\0", b"](h\0e"),
    "keys of keys": craft.legacy_file(PLAIN, b"]q\0" + b"h\0a" * 9),
    "no byte order": craft.legacy_file(PLAIN, info=b"}"),
    "a byte order of 1": craft.legacy_file(PLAIN, info=craft.dictionary(("little_endian", b"K\1"))),
    "a list comes first": craft.legacy_file(PLAIN, info=b"]"),
    "another version": craft.legacy_file(PLAIN).replace(b"M\xe9\3", b"M\xea\3", 1),
    "another protocol": craft.legacy_file(PLAIN).replace(b"\x80\2", b"\x80\4"),
    "magic alone": craft.LEGACY_HEAD,
    "half": craft.legacy_file(PLAIN)[:120],
}  # fmt: skip


@pytest.mark.parametrize("lie", BAD_FILES)
def test_bad_files(read: Read, lie: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read(BAD_FILES[lie])


NOT_PLAIN = {
    "a storage as key": craft.legacy_file(PLAIN, b"](" + storage() + b"e"),
    "a name as key": craft.legacy_file(PLAIN, b"](" + EVIL + b"e"),
    "a name in what comes first": craft.legacy_file(PLAIN, info=EVIL),
    "a storage in what comes first": craft.legacy_file(PLAIN, info=storage()),
}


@pytest.mark.parametrize("lie", NOT_PLAIN)
def test_only_the_object_has_names_and_storages(read: Read, lie: str) -> None:
    with pytest.raises(BadCheckpoint, match="a name or a storage where a plain value belongs"):
        read(NOT_PLAIN[lie])


BAD_STORAGES = {
    "identity of five": craft.storage(),
    "identity of seven": craft.storage("torch FloatStorage", "0", 6, b"N", b"N"),
    "source code": craft.several(*map(craft.text, ("module", "Linear", "linear.py", "import os"))) + b"Q",
    "source code of six": craft.several(craft.text("module"), *[b"N"] * 5) + b"Q",
    "part past the end": part(offset=3),
    "part far past": part(offset=HUGE, length=HUGE),
    "part before the start": part(offset=-1),
    "part of negative length": part(offset=4, length=-1),
    "part of the storage's own key": part(key="0"),
    "part that is a list": described(b"](" + craft.text("9") + b"K\0K\1e"),
    "part of two entries": described(craft.text("9") + b"K\0\x86"),
    "part named by a number": described(b"K\x09K\0K\1\x87"),
    "part of true length": described(craft.text("9") + b"K\0\x88\x87"),
    "part of a float": described(craft.text("9") + b"G" + bytes(8) + b"K\1\x87"),
    "part of a part": craft.storage("torch FloatStorage", "0", 6, part()),
}


@pytest.mark.parametrize("lie", BAD_STORAGES)
def test_bad_storages(read: Read, lie: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read(craft.legacy_file(over(BAD_STORAGES[lie])))


@pytest.mark.parametrize("second", [part(offset=0), part(length=3)])
def test_a_part_has_one_description(read: Read, second: bytes) -> None:
    assert len(read(craft.legacy_file(over(part(), part())))) == 2
    with pytest.raises(BadCheckpoint, match=r"describes storage '9' in two ways"):
        read(craft.legacy_file(over(part(), second)))


def test_a_part_has_a_key_of_its_own(read: Read) -> None:
    with pytest.raises(BadCheckpoint, match="as whole and as a part"):
        read(craft.legacy_file(over(part(), storage(key="9")), craft.listed("0", "9"), craft.counted() * 2))


def test_a_tensor_reaches_no_further_than_its_part(read: Read) -> None:
    with pytest.raises(BadCheckpoint, match="reaches out of its storage"):
        read(craft.legacy_file(craft.dictionary(("a", craft.tensor((5,), (1,), over=part())))))


def test_counts_are_read_little_endian(read: Read) -> None:
    with pytest.raises(BadCheckpoint, match="storage '0' is not as long"):
        read(craft.legacy_file(PLAIN, data=struct.pack(">q", 6) + craft.FLOATS))
