"""PyTorch files are read without torch, and hostile ones are refused without running anything."""

from __future__ import annotations

import ast
import gc
import json
import pickle
import pickletools
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
import torch_craft as craft
from hypothesis import given, settings
from hypothesis import strategies as st

from elm_mlx.convert import torch_pickle, torch_tensors, torch_zip
from elm_mlx.convert.tensor import LazyTensor
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.errors import BadCheckpoint, ElmError, NotFound, Unsupported

FILES = Path(__file__).parent / "torch_files"

Read = Callable[[bytes], dict[str, LazyTensor]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write the bytes to a file and read it."""
    path = tmp_path / "toy.bin"

    def write_and_read(data: bytes) -> dict[str, LazyTensor]:
        path.unlink(missing_ok=True)  # a file under a map is not rewritten
        path.write_bytes(data)
        return read_torch_file(path)

    return write_and_read


def read_body(read: Read, body: bytes) -> dict[str, LazyTensor]:
    return read(craft.torch_file(body))


# What torch wrote.


def values(tensor: LazyTensor) -> list[object]:
    found = tensor.read().flatten().tolist()
    if tensor.dtype == mx.complex64:
        return [[value.real, value.imag] for value in found]
    return found


@pytest.mark.parametrize("case", ["elements", "views", "module"])
def test_files_made_by_torch(case: str) -> None:
    expected = json.loads((FILES / f"{case}.json").read_text(encoding="utf-8"))
    tensors = read_torch_file(FILES / f"{case}.bin")
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        dtype = expected[name]["dtype"].replace("float64", "float32").replace("bool", "bool_")
        assert tensor.dtype == tensor.read().dtype == getattr(mx, dtype), name
        assert list(tensor.shape) == list(tensor.read().shape) == expected[name]["shape"], name
        assert values(tensor) == expected[name]["values"], name


def test_hand_made_file(read: Read) -> None:
    assert read(craft.PLAIN)["weight"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_old_file_without_zip64_and_byteorder(read: Read) -> None:
    members = [
        member
        for member in craft.members(craft.program(craft.dictionary(("a", craft.TENSOR))))
        if "order" not in member.name
    ]
    assert read(craft.archive(members, zip64=False))["a"].shape == (2, 3)


def test_zip64_member(read: Read) -> None:
    members = craft.members(craft.program(craft.dictionary(("a", craft.TENSOR))))
    wide = struct.pack("<2H4s2H2Q", 0xCAFE, 4, b"----", 1, 16, 24, 24)
    members[2] = replace(members[2], size=0xFFFFFFFF, extra=wide, local_size=0xFFFFFFFF)
    assert values(read(craft.archive(members))["a"]) == [0, 1, 2, 3, 4, 5]


def test_the_first_version_of_a_tensor(read: Read) -> None:
    view = (craft.integer(0), craft.integers((6,)), craft.integers((1,)))
    body = craft.call(craft.name("torch._utils", "_rebuild_tensor"), craft.STORAGE, *view)
    assert read_body(read, craft.dictionary(("a", body)))["a"].shape == (6,)


def test_parameter_with_state(read: Read) -> None:
    wrap = craft.name("torch._utils", "_rebuild_parameter_with_state")
    body = craft.call(wrap, craft.TENSOR, b"\x88", craft.ORDERED, craft.dictionary(("note", b"N")))
    assert read_body(read, craft.dictionary(("a", body)))["a"].shape == (2, 3)


def test_float64_past_float32_reads_as_infinity(read: Read) -> None:
    body = craft.tensor((3,), (1,), over=craft.storage("torch DoubleStorage", length=3))
    members = craft.members(craft.program(craft.dictionary(("a", body))), struct.pack("<3d", 1e300, -1e300, 0.1))
    found = read(craft.archive(members))["a"]
    assert found.dtype == mx.float32
    assert values(found) == [float("inf"), float("-inf"), struct.unpack("f", struct.pack("f", 0.1))[0]]


def test_elements_need_no_alignment(read: Read) -> None:
    body = craft.dictionary(("a", craft.TENSOR))
    for pad in range(4):
        members = [craft.Member("toy/" + "x" * (1 + pad), b""), *craft.members(craft.program(body))]
        assert values(read(craft.archive(members))["a"]) == [0, 1, 2, 3, 4, 5]


def test_the_map_outlives_the_file(tmp_path: Path) -> None:
    path = tmp_path / "toy.bin"
    path.write_bytes(craft.PLAIN)
    tensor = read_torch_file(path)["weight"]
    path.unlink()
    gc.collect()
    assert values(tensor) == [0, 1, 2, 3, 4, 5]


def test_the_readers_could_not_run_anything() -> None:
    """They use neither pickle nor zipfile nor torch, and nothing that imports or looks up by name."""
    folder = Path(torch_zip.__file__).parent
    for path in sorted(folder.glob("torch_*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not modules & {"pickle", "pickletools", "zipfile", "torch", "importlib"}, path
        assert not names & {"getattr", "setattr", "eval", "exec", "__import__", "globals"}, path


# Programs that would run something.

CODE_RUNNERS = {
    "os.system": ("os", "system"),
    "posix": ("posix", "system"),
    "subprocess": ("subprocess", "getoutput"),
    "pip.main": ("pip", "main"),
    "timeit": ("timeit", "timeit"),
    "f2py": ("numpy.f2py.crackfortran", "getlincoef"),
    "eval": ("builtins", "eval"),
    "exec in old dress": ("__builtin__", "exec"),
    "getattr": ("builtins", "getattr"),
    "dotted": ("torch._utils", "os.system"),
    "dotted in torch": ("torch", "serialization.os.system"),
    "submodule": ("torch.jit.unsupported_tensor_ops", "execWrapper"),
    "the module is a function": ("collections.OrderedDict", ""),
    "nested load": ("torch", "load"),
    "from_file": ("torch", "FloatStorage.from_file"),
    "empty": ("", ""),
}


@pytest.mark.parametrize("runner", CODE_RUNNERS)
def test_no_name_is_called(read: Read, tmp_path: Path, runner: str) -> None:
    sentinel = tmp_path / "ran"
    body = craft.call(craft.name(*CODE_RUNNERS[runner]), craft.text(f"touch '{sentinel}'"))
    with pytest.raises(BadCheckpoint, match=r"names '.*nothing was run"):
        read_body(read, craft.dictionary(("weight", body)))
    assert not sentinel.exists()


def test_the_attack_is_real_elsewhere(tmp_path: Path, read: Read) -> None:
    """The same bytes run under pickle, so the test above would see it."""
    sentinel = tmp_path / "ran"
    body = craft.dictionary(("a", craft.call(craft.name("os", "system"), craft.text(f"touch '{sentinel}'"))))
    pickle.loads(craft.program(body))
    assert sentinel.exists()
    sentinel.unlink()
    with pytest.raises(BadCheckpoint, match=r"toy.bin: its pickle names 'os.system', which no tensor file needs"):
        read_body(read, body)
    assert not sentinel.exists()


def test_a_name_is_not_even_imported(read: Read) -> None:
    with pytest.raises(BadCheckpoint, match="antigravity"):
        read_body(read, craft.name("antigravity", "geohash"))
    assert "antigravity" not in sys.modules


OS_SYSTEM = craft.text("os") + craft.text("system")
INTEGERS = craft.tensor(over=craft.storage("torch IntStorage"))
FIRST = craft.tensor((1,), (1,), over=craft.storage(length=1))
BAD_PROGRAMS = {
    "storage of two types": craft.dictionary(("a", craft.TENSOR), ("b", INTEGERS)),
    "storage of two lengths": craft.dictionary(("a", craft.TENSOR), ("b", FIRST)),
    "STACK_GLOBAL": OS_SYSTEM + b"\x93" + craft.text("true") + b"\x85R",
    "INST": b"(" + craft.text("true") + b"ios\nsystem\n",
    "OBJ": b"(" + craft.name("collections", "OrderedDict") + b"o",
    "NEWOBJ": craft.name("collections", "OrderedDict") + b")\x81",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\1\0\0\0",
    "PERSID as a line": b"Pstorage\n",
    "FRAME": b"\x95" + bytes(8),
    "second PROTO": b"\x80\x02" + craft.dictionary(("a", craft.TENSOR)),
    "trailing pickle": craft.dictionary(("a", craft.TENSOR)) + b"." + craft.program(b"N"),
    "value left below": b"N" + craft.dictionary(("a", craft.TENSOR)),
    "MARK left open": b"(" + craft.dictionary(("a", craft.TENSOR)),
    "REDUCE of a string": craft.call(craft.text("os.system"), craft.text("true")),
    "REDUCE of a class of storages": craft.call(craft.name("torch", "FloatStorage"), craft.integer(9)),
    "REDUCE of a list": craft.name("collections", "OrderedDict") + b"]R",
    "OrderedDict of an argument": craft.call(craft.name("collections", "OrderedDict"), b"]"),
    "SETITEM of a list": b"]" + craft.integer(0) + b"Ns",
    "SETITEM of a tensor": craft.TENSOR + craft.integer(0) + b"Ns",
    "SETITEMS of a tuple": b")(NNu",
    "SETITEMS, odd": b"}(Nu",
    "key of a tuple": b"})Ns",
    "key twice": craft.dictionary(("a", craft.TENSOR), ("a", craft.TENSOR)),
    "APPEND to a tuple": b")Na",
    "APPENDS to a dict": b"}(Ne",
    "BUILD of a tensor": craft.TENSOR + craft.dictionary(("__setstate__", b"N")) + b"b",
    "BUILD of a dict": b"}" + craft.dictionary(("__class__", b"N")) + b"b",
    "BUILD of a name": craft.name("torch", "float32") + b"}b",
    "BUILD with slots": craft.ORDERED + b"N}\x86b",
    "persistent module": craft.several(craft.text("module"), *[b"N"] * 4) + b"Q",
    "persistent string": craft.text("store") + b"Q",
    "POP": b"N0",
    "tuple of too few": b"N\x87",
    "TUPLE without MARK": b"t",
    "unset memo": b"h\7",
    "memo of 2**31": b"Nr\0\0\0\x80",
    "memo of nothing": b"q\0",
    "huge string": b"X\xff\xff\xff\xff",
    "long string": craft.text("x" * 70_000),
    "string that is no UTF-8": b"U\x02\xff\xfe",
    "name without end": b"c" + b"x" * 5_000,
    "huge integer": b"\x8a\xff" + b"\x7f" * 255,
    "INT of many digits": b"I" + b"9" * 9_999 + b"\n",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "nested marks": b"(" * 5_000,
}


@pytest.mark.parametrize("attack", BAD_PROGRAMS)
def test_bad_programs(read: Read, attack: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read_body(read, BAD_PROGRAMS[attack])


@pytest.mark.parametrize("code", [b"", b"\x80", b"\x80\x02", b"\x80\x02}", b"\x80\x04}.", b"cos\nsystem\n."])
def test_bad_pickles(read: Read, code: bytes) -> None:
    with pytest.raises(BadCheckpoint):
        read(craft.archive(craft.members(code)))


LAUGHS = b"Nq\0" + b"h\0\x86q\0" * 2_000  # a pair of pairs of pairs: 2**2000 leaves to walk, hash or print
DEEP = b"N" + b"\x85" * 200_000
BOMBS = {
    "value": LAUGHS,
    "deep value": DEEP,
    "item": craft.dictionary(("a", craft.TENSOR), ("b", LAUGHS)),
    "key": b"}" + LAUGHS + b"Ns",
    "function": LAUGHS + b")R",
    "deep function": DEEP + b")R",
    "arguments": craft.name("collections", "OrderedDict") + LAUGHS + b"R",
    "identity": LAUGHS + b"Q",
    "key of a storage": craft.STORAGE.replace(craft.text("0"), LAUGHS),
    "length of a storage": craft.STORAGE.replace(craft.integer(6), LAUGHS),
    "shape": craft.TENSOR.replace(craft.integers((2, 3)), LAUGHS),
    "size": craft.TENSOR.replace(craft.integers((2, 3)), LAUGHS + b"K\3\x86"),
    "offset": craft.TENSOR.replace(craft.integer(0), LAUGHS, 1),
    "requires_grad": craft.TENSOR.replace(b"\x89", LAUGHS),
    "list of itself": b"]q\0" + b"h\0a" * 50_000,
    "dictionary of itself": b"}q\0" + craft.text("a") + b"h\0s",
}


@pytest.mark.parametrize("place", BOMBS)
def test_small_programs_for_huge_values(read: Read, place: str) -> None:
    with pytest.raises((BadCheckpoint, Unsupported)):
        read_body(read, BOMBS[place])


def test_limits(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    body = craft.dictionary(("a", craft.TENSOR), ("b", craft.TENSOR))
    opcodes = sum(1 for _ in pickletools.genops(craft.program(body))) - 1  # the first is not counted
    for module, limit, least in ((torch_pickle, "MAX_OPCODES", opcodes), (torch_tensors, "MAX_TENSORS", 2)):
        monkeypatch.setattr(module, limit, least)
        assert len(read_body(read, body)) == 2
        monkeypatch.setattr(module, limit, least - 1)
        with pytest.raises(BadCheckpoint, match=str(least - 1)):
            read_body(read, body)
        monkeypatch.undo()
    monkeypatch.setattr(torch_zip, "MAX_MEMBERS", 3)
    with pytest.raises(BadCheckpoint, match="more members"):
        read_body(read, body)


# Tensors that lie about their storage.

HUGE = 2**62
BAD_TENSORS = {
    "one past the end": craft.tensor((7,), (1,)),
    "offset past the end": craft.tensor((6,), (1,), offset=1),
    "offset far past": craft.tensor((), (), offset=HUGE),
    "negative offset": craft.tensor((2,), (1,), offset=-1),
    "negative stride": craft.tensor((2,), (-1,), offset=1),
    "huge stride": craft.tensor((2,), (HUGE,)),
    "strides that sum to 2**64": craft.tensor((5, 2), (HUGE, 1)),
    "negative size": craft.tensor((-1,), (1,)),
    "sizes that multiply to 2**64": craft.tensor((2**31 - 1,) * 5, (0,) * 5),
    "size past 32 bits": craft.tensor((2**31, 0), (0, 0)),
    "expanded past the file": craft.tensor((1024, 1024), (0, 0)),
    "more sizes than strides": craft.tensor((2, 3), (3,)),
    "too many dimensions": craft.tensor((1,) * 33, (1,) * 33),
    "sizes in a list": craft.TENSOR.replace(craft.integers((2, 3)), b"](K\2K\3e"),
    "a size that is true": craft.TENSOR.replace(craft.integers((2, 3)), b"\x88K\3\x86"),
    "a size that is 2.0": craft.TENSOR.replace(craft.integers((2, 3)), b"G@" + bytes(7) + b"K\3\x86"),
    "hooks": craft.TENSOR.replace(craft.ORDERED, craft.dictionary(("hook", b"N"))),
    "no storage": craft.tensor(over=craft.text("storage")),
    "a tensor as storage": craft.tensor(over=craft.TENSOR),
    "too few arguments": craft.call(craft.name("torch._utils", "_rebuild_tensor_v2"), craft.STORAGE),
    "storage longer than its member": craft.tensor(over=craft.storage(length=7)),
    "storage of another type": craft.tensor(over=craft.storage("torch DoubleStorage")),
    "storage of negative length": craft.tensor(over=craft.storage(length=-1)),
    "storage of 2**62 elements": craft.tensor(over=craft.storage(length=HUGE)),
    "storage that is not there": craft.tensor(over=craft.storage(key="1")),
    "storage outside": craft.tensor(over=craft.storage(key="../../../etc/passwd")),
    "storage named by a number": craft.tensor(over=craft.STORAGE.replace(craft.text("0"), b"K\0")),
    "a type as storage": craft.tensor(over=craft.storage("torch float32")),
    "untyped storage, typed tensor": craft.tensor(over=craft.storage("torch.storage UntypedStorage")),
    "parameter of nothing": craft.call(craft.name("torch._utils", "_rebuild_parameter"), b"N", b"\x88", craft.ORDERED),
}


@pytest.mark.parametrize("lie", BAD_TENSORS)
def test_bad_tensors(read: Read, lie: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read_body(read, craft.dictionary(("a", BAD_TENSORS[lie])))


@pytest.mark.parametrize(
    "body",
    [
        craft.tensor((0, 7), (1, HUGE), offset=HUGE),  # nothing is read, so nothing is out of bounds
        craft.tensor((1, 2**31 - 1, 0), (1, 1, 1)),
        craft.tensor((1, 6), (HUGE, 1)),  # the stride of a dimension of one leads nowhere
        craft.tensor((512, 512), (0, 0)),  # small even so
        craft.tensor((1,) * 32, (1,) * 32),
    ],
)
def test_odd_tensors_that_are_well(read: Read, body: bytes) -> None:
    tensor = read_body(read, craft.dictionary(("a", body)))["a"]
    array = tensor.read()
    mx.eval(array)
    assert array.shape == tensor.shape


# Zips that lie about their members.


def altered(index: int, **lies: object) -> bytes:
    members = craft.members(craft.program(craft.dictionary(("a", craft.TENSOR))))
    members[index] = replace(members[index], **lies)
    return craft.archive(members)


GOOD_MEMBERS = craft.members(craft.program(craft.dictionary(("a", craft.TENSOR))))
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


# Honest files of other kinds.

UNSUPPORTED = {
    "legacy": bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e"),
    "tar": bytes(257) + b"ustar\x0000",
    "TorchScript": craft.archive([*GOOD_MEMBERS, craft.Member("toy/code/__torch__.py", b"", method=8)]),
    "big": altered(1, data=b"big"),
    "float8_e4m3fn": craft.torch_file(craft.name("torch", "float8_e4m3fn")),
    "QInt8Storage": craft.torch_file(craft.storage("torch QInt8Storage")),
    "ComplexDoubleStorage": craft.torch_file(craft.storage("torch ComplexDoubleStorage")),
    "_rebuild_sparse_tensor": craft.torch_file(craft.name("torch._utils", "_rebuild_sparse_tensor")),
    "_rebuild_from_type_v2": craft.torch_file(craft.name("torch._tensor", "_rebuild_from_type_v2")),
    "negated": craft.torch_file(
        craft.TENSOR.replace(craft.ORDERED, craft.ORDERED + craft.dictionary(("neg", b"\x88")))
    ),
    "'epoch', 'model_state_dict'": craft.torch_file(
        craft.dictionary(("epoch", b"K\3"), ("model_state_dict", craft.dictionary(("a", craft.TENSOR))))
    ),
    "nothing": craft.torch_file(b"}"),
    "one tensor": craft.torch_file(craft.TENSOR),
    "one list": craft.torch_file(b"](" + craft.TENSOR + b"e"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_kinds_are_named(read: Read, kind: str) -> None:
    with pytest.raises(Unsupported, match=rf"toy\.bin: .*{kind}"):
        read(UNSUPPORTED[kind])


@pytest.mark.parametrize(
    "data, advice",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!doctype html>", "no PyTorch file, it starts with b'<!doctyp'"),
        (b"", "no PyTorch file"),
        (
            craft.torch_file(craft.dictionary(("a", craft.TENSOR), ("step", b"K\3"))),
            "'step' is no tensor .* a int",
        ),
        (craft.torch_file(b"}K\3" + craft.TENSOR + b"s"), "3 is no tensor under a name"),
    ],
)
def test_what_else_is_refused(read: Read, data: bytes, advice: str) -> None:
    with pytest.raises(BadCheckpoint, match=advice):
        read(data)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.bin", tmp_path):
        with pytest.raises(NotFound, match=path.name):
            read_torch_file(path)


# Anything at all.

SEEDS = [craft.PLAIN, *((FILES / f"{case}.bin").read_bytes() for case in ("elements", "views", "module"))]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with a few bytes changed, or its pickle, or cut."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: len(data) - draw(st.sampled_from([0, 0, 0, 1, 22, 100, 1000]))])


@settings(max_examples=150, deadline=None)
@given(data=damaged() | st.binary(max_size=60).map(craft.torch_file))
def test_damage_reads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    try:
        for tensor in read_torch_file(path).values():
            mx.eval(tensor.read())
    except ElmError:
        pass
