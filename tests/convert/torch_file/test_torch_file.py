"""PyTorch files are read without torch, and hostile ones are refused without running anything."""

from __future__ import annotations

import ast
import gc
import json
import pickle
import pickletools
import struct
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from helpers import torch_craft as craft
from helpers.torch_craft import Read

from elm_mlx.convert.tensor import LazyTensor, RowReader
from elm_mlx.convert.torch_file import pickle as torch_pickle
from elm_mlx.convert.torch_file import read_torch_file
from elm_mlx.convert.torch_file import tensors as torch_tensors
from elm_mlx.convert.torch_file import zip as torch_zip
from elm_mlx.errors import BadCheckpoint, NotFound, Unsupported
from elm_mlx.store import weights

FILES = Path(__file__).parent / "fixtures"

# What torch wrote.


def values(tensor: LazyTensor) -> list[object]:
    found = tensor.read().flatten().tolist()
    if tensor.dtype == mx.complex64:
        return [[value.real, value.imag] for value in found]
    return found


@pytest.mark.parametrize("file", sorted(path.stem for path in FILES.glob("*.bin")))
def test_files_made_by_torch(file: str) -> None:
    case = file.removesuffix("-legacy").replace("training", "module")  # that is the model in the checkpoint
    expected = json.loads((FILES / f"{case}.json").read_text(encoding="utf-8"))
    tensors = read_torch_file(FILES / f"{file}.bin")
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        dtype = expected[name]["dtype"].replace("float64", "float32").replace("bool", "bool_")
        assert tensor.dtype == tensor.read().dtype == getattr(mx, dtype), name
        assert list(tensor.shape) == list(tensor.read().shape) == expected[name]["shape"], name
        assert values(tensor) == expected[name]["values"], name


@pytest.mark.parametrize("file", sorted(path.stem for path in FILES.glob("*.bin")))
def test_blocks_of_rows_are_the_whole(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK_ELEMENTS", 1)
    for name, tensor in read_torch_file(FILES / f"{file}.bin").items():
        if tensor.shape and tensor.shape[0]:
            blocks = [*tensor.blocks()]
            assert isinstance(tensor.read, RowReader)
            assert [block.shape for block in blocks] == [(1, *tensor.shape[1:])] * tensor.shape[0], name
            assert mx.concatenate(blocks).tolist() == tensor.read().tolist(), name


def test_hand_made_file(read_body: Read) -> None:
    assert read_body(craft.dictionary(("a", craft.TENSOR)))["a"].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tied_tensors_are_one_and_views_share_their_storage(read_body: Read) -> None:
    """Tying is seen by identity, and no element is kept twice."""
    body = craft.dictionary(("a", craft.TENSOR + b"q\7"), ("tied", b"h\7"), ("view", craft.tensor((3,), (2,), 1)))
    tensors = read_body(body)
    assert tensors["tied"] is tensors["a"]
    assert values(tensors["view"]) == [1, 3, 5]
    assert tensors["view"].read.storage is tensors["a"].read.storage


def test_the_first_version_of_a_tensor(read_body: Read) -> None:
    view = (craft.integer(0), craft.integers((6,)), craft.integers((1,)))
    body = craft.call(craft.name("torch._utils", "_rebuild_tensor"), craft.STORAGE, *view)
    assert read_body(craft.dictionary(("a", body)))["a"].shape == (6,)


def test_parameter_with_state(read_body: Read) -> None:
    wrap = craft.name("torch._utils", "_rebuild_parameter_with_state")
    body = craft.call(wrap, craft.TENSOR, b"\x88", craft.ORDERED, craft.dictionary(("note", b"N")))
    assert read_body(craft.dictionary(("a", body)))["a"].shape == (2, 3)


def test_float64_past_float32_reads_as_infinity(read: Read) -> None:
    body = craft.tensor((3,), (1,), over=craft.storage("torch DoubleStorage", length=3))
    members = craft.members(craft.program(craft.dictionary(("a", body))), struct.pack("<3d", 1e300, -1e300, 0.1))
    found = read(craft.archive(members))["a"]
    assert found.dtype == mx.float32
    assert values(found) == [float("inf"), float("-inf"), struct.unpack("f", struct.pack("f", 0.1))[0]]


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
def test_no_name_is_called(read_body: Read, tmp_path: Path, runner: str) -> None:
    sentinel = tmp_path / "ran"
    body = craft.call(craft.name(*CODE_RUNNERS[runner]), craft.text(f"touch '{sentinel}'"))
    with pytest.raises(BadCheckpoint, match=r"names '.*nothing was run"):
        read_body(craft.dictionary(("weight", body)))
    assert not sentinel.exists()


def test_the_attack_is_real_elsewhere(tmp_path: Path, read_body: Read) -> None:
    """Pickle itself runs these bytes, so the test above would see it if elm-mlx did."""
    sentinel = tmp_path / "ran"
    body = craft.dictionary(("a", craft.call(craft.name("os", "system"), craft.text(f"touch '{sentinel}'"))))
    pickle.loads(craft.program(body))
    assert sentinel.exists()
    sentinel.unlink()
    with pytest.raises(BadCheckpoint, match=r"toy.bin: its pickle names 'os.system', which no tensor file needs"):
        read_body(body)
    assert not sentinel.exists()


def test_a_name_is_not_even_imported(read_body: Read) -> None:
    with pytest.raises(BadCheckpoint, match="antigravity"):
        read_body(craft.name("antigravity", "geohash"))
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
    "integers that share a hash": b"}(" + b"".join(craft.integer(n * (2**61 - 1)) + b"N" for n in range(99)) + b"u",
    "huge integer": b"\x8a\xff" + b"\x7f" * 255,
    "INT of many digits": b"I" + b"9" * 9_999 + b"\n",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "nested marks": b"(" * 5_000,
}


@pytest.mark.parametrize("attack", BAD_PROGRAMS)
def test_bad_programs(read_body: Read, attack: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read_body(BAD_PROGRAMS[attack])


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
    "arguments of many calls": craft.name("a", "b") + b"q\0(" + b"N" * 50_000 + b"tq\1" + b"h\0h\1R" * 50_000,
    "dictionary of itself": b"}q\0" + craft.text("a") + b"h\0s",
}


@pytest.mark.parametrize("place", BOMBS)
def test_small_programs_for_huge_values(read: Read, place: str) -> None:
    with pytest.raises((BadCheckpoint, Unsupported)):
        read(craft.torch_file(BOMBS[place]))


def test_limits(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    body = craft.dictionary(("a", craft.TENSOR), ("b", craft.TENSOR))
    file = craft.torch_file(body)
    opcodes = sum(1 for _ in pickletools.genops(craft.program(body))) - 1  # the first is not counted
    for module, limit, least in ((torch_pickle, "MAX_OPCODES", opcodes), (torch_tensors, "MAX_TENSORS", 2)):
        monkeypatch.setattr(module, limit, least)
        assert len(read(file)) == 2
        monkeypatch.setattr(module, limit, least - 1)
        with pytest.raises(BadCheckpoint, match=str(least - 1)):
            read(file)
        monkeypatch.undo()
    monkeypatch.setattr(torch_pickle, "MAX_BYTES", len(craft.program(body)) - 1)
    with pytest.raises(BadCheckpoint, match="cut short, or over"):
        read(file)
    monkeypatch.undo()
    monkeypatch.setattr(torch_zip, "MAX_MEMBERS", 3)
    with pytest.raises(BadCheckpoint, match="more members"):
        read(file)


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
    "typed storage, tensor of a type": craft.TENSOR.replace(b"_v2\n", b"_v3\n").replace(
        craft.ORDERED, craft.ORDERED + craft.name("torch", "float32")
    ),
    "parameter of nothing": craft.call(craft.name("torch._utils", "_rebuild_parameter"), b"N", b"\x88", craft.ORDERED),
}


@pytest.mark.parametrize("lie", BAD_TENSORS)
def test_bad_tensors(read_body: Read, lie: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"toy\.bin: "):
        read_body(craft.dictionary(("a", BAD_TENSORS[lie])))


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
def test_odd_tensors_that_are_well(read_body: Read, body: bytes) -> None:
    tensor = read_body(craft.dictionary(("a", body)))["a"]
    array = tensor.read()
    mx.eval(array)
    assert array.shape == tensor.shape


# Honest files of other kinds.

UNSUPPORTED = {
    "has tensors of float8_e4m3fn, and MLX has no such type; .* bfloat16": craft.name("torch", "float8_e4m3fn"),
    "float4_e2m1fn_x2": craft.name("torch", "float4_e2m1fn_x2"),
    "QInt8Storage": craft.storage("torch QInt8Storage"),
    "ComplexDoubleStorage": craft.storage("torch ComplexDoubleStorage"),
    "_rebuild_sparse_tensor": craft.name("torch._utils", "_rebuild_sparse_tensor"),
    "_rebuild_from_type_v2": craft.name("torch._tensor", "_rebuild_from_type_v2"),
    "negated": craft.TENSOR.replace(craft.ORDERED, craft.ORDERED + craft.dictionary(("neg", b"\x88"))),
    "'epoch', 'network'": craft.dictionary(("epoch", b"K\3"), ("network", craft.dictionary(("a", craft.TENSOR)))),
    "nothing": b"}",
    "one tensor": craft.TENSOR,
    "one list": b"](" + craft.TENSOR + b"e",
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_kinds_are_named(read_body: Read, kind: str) -> None:
    with pytest.raises(Unsupported, match=rf"toy\.bin: .*{kind}"):
        read_body(UNSUPPORTED[kind])


def test_a_tar_is_named(read: Read) -> None:
    with pytest.raises(Unsupported, match=r"toy\.bin: .* a tar file; load it in torch"):
        read(bytes(257) + b"ustar\x0000")


@pytest.mark.parametrize(
    "data, advice",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!doctype html>", "not a PyTorch file: it starts with b'<!doctyp'"),
        (b"", "not a PyTorch file"),
        (
            craft.torch_file(craft.dictionary(("a", craft.TENSOR), ("step", b"K\3"))),
            "'step' is not a named tensor .* a int",
        ),
        (craft.torch_file(b"}K\3" + craft.TENSOR + b"s"), "3 is not a named tensor"),
    ],
)
def test_what_else_is_refused(read: Read, data: bytes, advice: str) -> None:
    with pytest.raises(BadCheckpoint, match=advice):
        read(data)


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.bin", tmp_path):
        with pytest.raises(NotFound, match=path.name):
            read_torch_file(path)
